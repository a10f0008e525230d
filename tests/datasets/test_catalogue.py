"""The table of benchmarks, and what a benchmark with several variants and splits may be."""

import inspect
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from metabridge.datasets import benchmarks, helpers
from metabridge.datasets.benchmarks import Benchmark, Content, StoredMetaDataset, Variant, build, store_path
from metabridge.datasets.catalogue import BENCHMARKS, load
from metabridge.datasets.fetch import Archive
from metabridge.metadatasets import META_SPLITS
from metabridge.sources import HDF5Source

HEAVY = ("h5py", "PIL", "pooch", "requests", "tqdm", "torch", "jax")


def test_every_benchmark_is_described_and_has_a_path_per_variant(tmp_path):
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        assert "\n" not in benchmark.description
        paths = [store_path(benchmark, tmp_path, variant) for variant in benchmark.variants]
        assert paths == [tmp_path / name / f"{variant}.h5" for variant in benchmark.variants]
        assert store_path(benchmark, tmp_path) == paths[0]
        for variant in benchmark.variants.values():
            assert bool(variant.archives) != bool(benchmark.by_hand)
            for split in variant.splits.values():
                parts = split(())
                assert set(parts) <= set(META_SPLITS)
                assert sum(map(len, parts.values())) <= variant.num_classes
    assert list(tmp_path.iterdir()) == []


def test_omniglot_is_loaded_through_the_table(made, official, tmp_path):
    path = made().write_zip(tmp_path)
    official("small1", path)
    omniglot = BENCHMARKS["omniglot"]
    assert (tuple(omniglot.variants), omniglot.default_variant) == (("full", "small1", "small2"), "full")
    build(omniglot, tmp_path, "small1", path, progress=False)
    dataset = load(omniglot, tmp_path, "small1", ways=2, shots=1, meta_split="test")
    assert (dataset.variant, dataset.split, dataset.num_classes_per_task) == ("small1", "alphabets", 2)
    assert load(omniglot, tmp_path, "small1", shots=1, meta_split="train").num_classes_per_task == 5
    with pytest.raises(ValueError, match="`variant` of cub must be one of 'full', got 'small1'"):
        load(BENCHMARKS["cub"], tmp_path, "small1", shots=1, meta_split="test")


@contextmanager
def read_letters(paths, progress):
    """Four classes of three examples, from whatever `paths` are."""
    images = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)
    yield Content(list("abcd"), [3] * 4, (1, 1, 1), np.uint8, [images], f"{len(paths)} files")


def fold(number):
    return lambda names: {
        "train": [name for name in "abcd" if name != "abcd"[number]],
        "val": (),
        "test": "abcd"[number],
    }


ARCHIVES = tuple(Archive(name, (f"https://example.org/{name}",), sha256="0" * 64) for name in ("one.tar", "two.tar"))
FOLDED = Benchmark(
    name="folded",
    title="Folded",
    description="letters",
    terms="MIT",
    licence="MIT",
    variants={
        size: Variant(
            ARCHIVES, read_letters, {f"fold {i}": fold(i) for i in range(4)}, 4, (9, 0, 3), (1, 1, 1), "uint8"
        )
        for size in ("small", "large")
    },
    downloads="folded",
)


class Folded(StoredMetaDataset):
    """As a benchmark of folds is written: attributes, then the common constructor."""

    benchmark = FOLDED

    def __init__(self, root, *arguments, fold=0, variant="small", **keywords):
        self.split = f"fold {fold}"
        self.variant = variant
        super().__init__(root, *arguments, **keywords)


def test_a_subclass_chooses_variant_and_split_by_attributes(tmp_path):
    (tmp_path / "files").mkdir()
    for variant in ("small", "large"):
        path = build(FOLDED, tmp_path, variant, tmp_path / "files", progress=False)
        assert path == tmp_path / "folded" / f"{variant}.h5"
        provenance = HDF5Source(path).provenance
        assert (provenance["variant"], provenance["archives"]) == (variant, {"files": "folder"})
    dataset = Folded(tmp_path, 1, meta_test=True, fold=2, variant="large")
    assert dataset.source.class_names == ("c",)
    assert (dataset.variant, dataset.split) == ("large", "fold 2")
    with pytest.raises(ValueError, match="`variant` of folded must be one of 'small', 'large', got 'huge'"):
        Folded(tmp_path, 1, meta_test=True, variant="huge")
    with pytest.raises(ValueError, match=r"split of Folded 'small' must be one of 'fold 0', .* got 'fold 4'"):
        Folded(tmp_path, 1, meta_test=True, fold=4)
    with pytest.raises(ValueError, match=r"has no meta-val classes; ask for meta-train or meta-test\.$"):
        Folded(tmp_path / "none", 1, meta_val=True, download=True)
    with pytest.raises(FileNotFoundError, match=r"Folded 'large' is not built: .* --variant large --root"):
        Folded(tmp_path / "none", 1, meta_train=True, variant="large")


def test_some_archives_are_not_enough(tmp_path):
    (tmp_path / "one.tar").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"must be a folder that holds all 2 archives, one\.tar and two\.tar"):
        build(FOLDED, tmp_path, source=tmp_path / "one.tar", progress=False)
    (tmp_path / "one.tar").rename(tmp_path / "two.tar")
    with pytest.raises(
        FileNotFoundError, match=r"must hold one\.tar, .* does not; download .*https://example\.org/one"
    ):
        build(FOLDED, tmp_path, source=tmp_path, progress=False)


def test_helpers_are_functions_that_explain_themselves():
    for name in helpers.__all__:
        helper = getattr(helpers, name)
        assert inspect.isfunction(helper)
        assert (helper.__module__, helper.__name__, helper.__qualname__) == (helpers.__name__, name, name)
        parameters = inspect.signature(helper).parameters
        assert list(parameters) == ["folder", "shots", "ways", "shuffle", "test_shots", "seed", "kwargs"]
        meta_dataset = inspect.signature(helper).return_annotation
        assert issubclass(meta_dataset, StoredMetaDataset)
        for word in ("support set", "query set", meta_dataset.__name__):
            assert word in inspect.getdoc(helper)


def test_a_table_s_split_is_that_of_its_file():
    table = benchmarks.split_table("cub")
    assert benchmarks.table_split("cub") == {name: table[name] for name in META_SPLITS}


def test_the_table_is_light_to_import():
    program = f"import sys, metabridge.datasets.catalogue; print([m for m in {HEAVY} if m in sys.modules])"
    repository = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
