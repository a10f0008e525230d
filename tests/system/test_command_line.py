"""The command line as a user types it: each test is a process of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BLOCK = """
import sys
from importlib.abc import MetaPathFinder

class Block(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Block())
"""


def run(*arguments, cwd, code=None):
    """Run `metabridge`, or Python code, from a folder outside the checkout."""
    command = [sys.executable, "-c", code] if code else [sys.executable, "-m", "metabridge"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)  # programs are compiled as a user's are
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def test_help_names_the_verbs(tmp_path):
    found = run("--help", cwd=tmp_path)
    assert found.returncode == 0
    for verb in ("compare", "build", "datasets"):
        assert re.search(rf"^\s+{verb}\s+\w", found.stdout, re.MULTILINE)


@pytest.mark.slow
def test_compare_on_real_omniglot(tmp_path, small1_archive):
    before = small1_archive.read_bytes()
    built = run("build", "omniglot", "--variant", "small1", "--root", "data", "--from", small1_archive, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert "136 classes, 2720 examples" in built.stdout
    assert small1_archive.read_bytes() == before

    listed = run("datasets", "--root", "data", cwd=tmp_path)
    assert re.search(r"omniglot +small1 +70/40/26 +1,400/800/520 +28x28x1 +2\.2 MB +MIT +built cf965625", listed.stdout)
    assert re.search(
        r"omniglot +full +1028/172/423 +20,560/3,440/8,460 +28x28x1 +~25\.4 MB +MIT +not built", listed.stdout
    )

    words = "compare --dataset omniglot --variant small1 --root data --ways 3 --test-shots 2 --steps 3"
    compared = run(*words.split(), "--meta-batch-size", 2, "--json", "found.json", cwd=tmp_path)
    assert compared.returncode == 0, compared.stdout + compared.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["episodes"]["identical"] == found["episodes"]["total"] == 6
    assert found["meta_gradient"]["max_relative_error"] <= 1e-9
    assert found["meta_gradient"]["second_order_share"] > 0.01
    assert found["trajectory"]["max_abs_loss_difference"] <= 1e-8
    assert (tmp_path / "metabridge-report" / "report.html").is_file()
    assert "meta-gradients, float64" in compared.stderr  # the progress bars


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compare --dataset cats", "`--dataset` must be one of 'sinusoid', 'harmonic'"),
        ("compare --dataset omniglot --root nowhere", "`metabridge build omniglot --variant full --root nowhere`"),
    ],
)
def test_a_mistake_is_one_message_and_status_2(words, message, tmp_path):
    found = run(*words.split(), cwd=tmp_path)
    assert found.returncode == 2
    assert message in found.stderr
    assert "Traceback" not in found.stderr
    assert list(tmp_path.rglob("*.h5")) == []


def test_too_many_ways_or_shots(tmp_path, small1_archive):
    run("build", "omniglot", "--variant", "small1", "--from", small1_archive, cwd=tmp_path)
    omniglot = ["compare", "--dataset", "omniglot", "--variant", "small1"]
    many_ways = run(*omniglot, "--ways", 500, cwd=tmp_path)
    assert many_ways.returncode == 2
    assert "`--ways` must lie between 1 and the number of classes, which is 280" in many_ways.stderr
    many_shots = run(*omniglot, "--shots", 10, "--test-shots", 11, cwd=tmp_path)
    assert many_shots.returncode == 2
    assert "support and query together need 21 examples of every class" in many_shots.stderr


def test_the_list_survives_a_damaged_store(tmp_path):
    store = tmp_path / "data" / "omniglot" / "small1.h5"
    store.parent.mkdir(parents=True)
    store.write_bytes(b"no HDF5")
    listed = run("datasets", "--root", "data", cwd=tmp_path)
    assert listed.returncode == 0
    assert re.search(r"omniglot +small1 +136 .* damaged +drawn characters", listed.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["torch", "jax"])
def test_compare_says_which_extra_is_missing(missing, tmp_path):
    code = BLOCK.format(missing=missing) + "from metabridge.cli import main; main()"
    found = run("compare", code=code, cwd=tmp_path)
    assert found.returncode == 2
    assert f"pip install 'metabridge[{missing}]'" in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("missing", "other"), [("torch", "jax"), ("jax", "torch")])
def test_half_of_the_library_works_with_one_framework(missing, other, tmp_path):
    code = BLOCK.format(missing=missing) + (ROOT / "examples" / "01_sinusoid_maml.py").read_text()
    found = run("--backend", other, "--steps", 2, code=code, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "10 inner steps: mean squared error" in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_example_with_own_arrays(backend, tmp_path):
    code = (ROOT / "examples" / "03_your_own_arrays.py").read_text()
    found = run("--backend", backend, code=code, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "142506 meta-train tasks, 252 meta-test tasks" in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_example_of_a_new_algorithm(backend, tmp_path):
    code = (ROOT / "examples" / "04_new_algorithm.py").read_text()
    found = run("--backend", backend, "--steps", 50, code=code, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert re.search(r"meta-step    45  query loss \d\.\d", found.stdout)
    errors = dict(re.findall(r"(before|after) +adaptation: mean squared error (\d\.\d+) ± \d\.\d+", found.stdout))
    assert float(errors["after"]) < float(errors["before"]) - 0.2


@pytest.mark.slow
def test_example_in_torchmeta_style(tmp_path, small1_archive):
    run("build", "omniglot", "--variant", "small1", "--from", small1_archive, cwd=tmp_path)
    code = (ROOT / "examples" / "02_torchmeta_style.py").read_text()
    found = run("--steps", 2, code=code, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert re.search(r"meta-step    0  loss \d\.\d+  accuracy", found.stdout)
