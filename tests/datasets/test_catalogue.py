"""The table the command line reads."""

import subprocess
import sys
from pathlib import Path

from metabridge.datasets.catalogue import BENCHMARKS

HEAVY = ("h5py", "PIL", "pooch", "requests", "tqdm", "torch", "jax")


def test_every_benchmark_is_described_and_has_a_path_per_variant(tmp_path):
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        assert "\n" not in benchmark.description
        paths = {benchmark.store_path(tmp_path, variant) for variant in benchmark.variants}
        assert len(paths) == len(benchmark.variants) == len(benchmark.num_classes)
        assert benchmark.store_path(tmp_path) == benchmark.store_path(tmp_path, benchmark.variants[0])
    assert list(tmp_path.iterdir()) == []


def test_omniglot_builds_through_the_table(made, official, tmp_path):
    path = made().write_zip(tmp_path)
    official("small1", path)
    omniglot = BENCHMARKS["omniglot"]
    assert omniglot.variants == ("full", "small1", "small2")
    store = omniglot.build(tmp_path / "root", variant="small1", source=path, progress=False)
    assert store == omniglot.store_path(tmp_path / "root", "small1")
    assert store.is_file()


def test_the_table_is_light_to_import():
    program = f"import sys, metabridge.datasets.catalogue; print([m for m in {HEAVY} if m in sys.modules])"
    repository = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
