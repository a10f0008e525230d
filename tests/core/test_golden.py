"""The promised bits, in this process, under any hash seed and in every other Python at hand (contracts C1 and C2)."""

import copy
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from golden import digests
from helpers import ROOT

OTHER_PYTHONS = [path for path in os.environ.get("METABRIDGE_TEST_PYTHONS", "").split(":") if path]


@pytest.fixture(scope="module")
def promised():
    return json.loads(digests.FILE.read_text())


def run_script(python, **environment):
    return subprocess.run(
        [python, digests.__file__],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_what_is_computed_is_what_is_promised(promised):
    assert digests.differences(promised, digests.compute()) == []


def test_every_promised_value_is_distinct(promised):
    """Two meta-datasets with one digest would mean that what tells them apart has no effect."""
    for section in ("fingerprints", "plans", "batches", "far batches", "tasks", "parameters"):
        values = list(promised[section].values())
        assert len(set(values)) == len(values), section


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_the_hash_seed_changes_nothing(hash_seed):
    result = run_script(sys.executable, PYTHONHASHSEED=hash_seed)
    assert (result.returncode, result.stdout[:3]) == (0, "ok:"), result.stdout + result.stderr


def test_a_processor_without_vector_extensions_computes_the_same():
    """NumPy chooses its routines by processor; those of `exp` and `log` differ in the last bits."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    result = run_script(sys.executable, NPY_DISABLE_CPU_FEATURES=" ".join(found))
    assert (result.returncode, result.stdout[:3]) == (0, "ok:"), result.stdout + result.stderr


@pytest.mark.skipif(
    not OTHER_PYTHONS, reason="METABRIDGE_TEST_PYTHONS names no other interpreter (colon-separated paths)"
)
@pytest.mark.parametrize("python", OTHER_PYTHONS or ["none"])
def test_another_python_computes_the_same(python):
    result = run_script(python)
    assert (result.returncode, result.stdout[:3]) == (0, "ok:"), result.stdout + result.stderr


def test_the_comparison_can_fail(promised, tmp_path, capsys):
    changed, missing, extra = (copy.deepcopy(promised) for _ in range(3))
    changed["batches"]["sinusoid"] = "0" * 32
    del missing["plans"]["rotations, seed 0"]
    extra["a new section"] = {"name": "value"}
    for broken, line in (
        (changed, f"batches: sinusoid: promised {'0' * 32}, got {promised['batches']['sinusoid']}"),
        (missing, "plans: rotations, seed 0: promised None, got "),
        (extra, "a new section: name: promised value, got None"),
    ):
        file = tmp_path / "episodes.json"
        file.write_text(json.dumps(broken))
        assert digests.main([], file) == 1
        assert capsys.readouterr().out.startswith(line)


def test_a_change_of_the_streams_is_noticed(promised, monkeypatch):
    """Another scheme version in the key, the smallest change there is, changes every episode."""
    monkeypatch.setattr("metabridge.streams.philox.SCHEME_VERSION", 2)
    found = {line.split(": ")[0] for line in digests.differences(promised, digests.compute())}
    assert found >= {"keys", "plans", "batches", "tasks", "loader", "parameters"}
    assert "raw words" not in found


def test_writing_makes_a_file_that_agrees(tmp_path, capsys):
    file = tmp_path / "episodes.json"
    assert digests.main(["--write"], file) == 0
    assert digests.main([], file) == 0
    assert file.read_text() == digests.FILE.read_text()
    assert digests.main(["--help"], file) == 2
    assert "usage: digests.py [--write], got ['--help']" in capsys.readouterr().out
