"""How a framework is found by name, and what is said when it is not there."""

import importlib.metadata

import numpy as np
import pytest
from helpers import run_python
from tolerances import assert_identical

from backends.kits import FRAMEWORKS, make_kit
from backends.problems import PROBLEMS
from metabridge.backends import backend_names, load_backend
from metabridge.episodes.batches import arrays_digest

# Runs with an import that fails as if the package were not installed.
BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""


def run_without(packages, program):
    return run_python(BLOCKED.format(blocked=tuple(packages)) + program)


def test_a_backend_says_what_it_is(backend):
    found = load_backend(backend.name, "cpu", "float64")
    assert (found.name, found.device, found.dtype) == (backend.name, "cpu", "float64")
    assert found.version.partition("+")[0] == importlib.metadata.version(backend.name).partition("+")[0]
    assert type(found) is backend.backend.Backend


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"`backend` must be one of 'torch', 'jax'.*, got 'tensorflow'"):
        load_backend("tensorflow")


def test_other_distributions_register_theirs(monkeypatch):
    """One that stands in for NumPy: any callable `(device, dtype)`."""
    entry = importlib.metadata.EntryPoint("plain", "builtins:complex", "metabridge.backends")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: importlib.metadata.EntryPoints([entry]))
    assert backend_names() == ["torch", "jax", "plain"]
    assert load_backend("plain", 1, 2) == 1 + 2j


def test_a_checkout_that_is_not_installed_works(backend, monkeypatch):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: importlib.metadata.EntryPoints([]))
    assert backend_names() == ["torch", "jax"]
    assert load_backend(backend.name, "cpu").name == backend.name


# Missing frameworks


@pytest.mark.parametrize(("name", "package"), [(name, each) for name, all_ in FRAMEWORKS.items() for each in all_])
def test_a_missing_framework_names_the_extra(name, package):
    finished = run_without([package], f"from metabridge.backends import load_backend\nload_backend({name!r})")
    assert finished.returncode == 1
    last = finished.stderr.strip().splitlines()[-1]
    assert last == (
        f"ModuleNotFoundError: the {name} backend needs the package {package!r}, which is not installed; "
        f"install it with `pip install 'metabridge[{name}]'`."
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", FRAMEWORKS)
def test_half_a_machine_can_use_its_half(name):
    """A meta-step with one framework, while the other one's packages cannot be imported."""
    make_kit(name)
    others = [package for other, packages in FRAMEWORKS.items() if other != name for package in packages]
    program = f"""
import numpy as np
from metabridge.backends import load_backend
from metabridge.configs import EpisodeConfig, RunConfig
from metabridge.networks.parameters import initial_parameters
from metabridge.toy.helpers import sinusoid
from {name}_backend.data import BatchMetaDataLoader

run = RunConfig(episode=EpisodeConfig(None, 5, 5))
backend = load_backend({name!r}, "cpu")
learner = backend.learner(run, initial_parameters(run.model, 0))
learner.step(backend.receive(sinusoid(5).episodes(range(4))))
next(iter(BatchMetaDataLoader(sinusoid(5), num_batches=1)))
try:
    load_backend({"jax" if name == "torch" else "torch"!r})
except ModuleNotFoundError as error:
    print(error)
"""
    finished = run_without(others, program)
    assert finished.returncode == 0, finished.stderr
    assert f"the {'jax' if name == 'torch' else 'torch'} backend needs the package {others[0]!r}" in finished.stdout


def test_a_broken_backend_of_our_own_is_not_blamed_on_the_framework():
    finished = run_without(["torch_backend"], "from metabridge.backends import load_backend\nload_backend('torch')")
    assert "No module named 'torch_backend" in finished.stderr
    assert "pip install" not in finished.stderr


def test_a_missing_framework_skips_here_and_fails_in_ci(monkeypatch):
    """The guard of this folder: without it a whole backend could go untested."""
    monkeypatch.setitem(FRAMEWORKS, "jax", ("jax", "a_package_that_is_not_there"))
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"needs a_package_that_is_not_there; install it with .*\[jax\]"):
        make_kit("jax")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="needs a_package_that_is_not_there"):
        make_kit("jax")


# Devices


def test_an_unknown_device_is_refused(backend):
    with pytest.raises(ValueError, match="`device` must be 'auto', 'cpu' or 'gpu', got 'tpu'"):
        load_backend(backend.name, "tpu")


def test_a_gpu_that_is_not_there_is_refused(backend, monkeypatch):
    if backend.name == "torch":
        monkeypatch.setattr(backend.torch.cuda, "is_available", lambda: False)
    else:
        monkeypatch.setattr(backend.jax, "devices", no_gpu(backend.jax.devices))
    with pytest.raises(
        ValueError, match=r"`device` is 'gpu' but (PyTorch|JAX) sees none; use 'cpu', or install a CUDA"
    ):
        load_backend(backend.name, "gpu")


def no_gpu(devices):
    """`jax.devices` of a machine without a GPU."""

    def find(kind=None):
        if kind in ("gpu", "cuda"):
            raise RuntimeError(f"Unknown backend {kind}")
        return devices("cpu")

    return find


def test_auto_takes_the_cpu_where_there_is_nothing_else(backend, monkeypatch):
    if backend.name == "torch":
        monkeypatch.setattr(backend.torch.cuda, "is_available", lambda: False)
    else:
        monkeypatch.setattr(backend.jax, "devices", no_gpu(backend.jax.devices))
    assert load_backend(backend.name).device == "cpu"


def test_an_unknown_dtype_is_refused(backend):
    with pytest.raises(ValueError, match="`dtype` must be 'float32' or 'float64', got 'float16'"):
        load_backend(backend.name, "cpu", "float16")


# Data on the device


@pytest.mark.parametrize("name", PROBLEMS)
def test_float32_data_come_back_bit_for_bit(backend, name):
    found, batch = load_backend(backend.name, "cpu", "float32"), PROBLEMS[name].batch()
    assert arrays_digest(found.to_numpy(found.receive(batch))) == batch.digest()


@pytest.mark.parametrize("name", PROBLEMS)
def test_float64_data_are_the_same_numbers(backend, name):
    found, batch = load_backend(backend.name, "cpu", "float64"), PROBLEMS[name].batch()
    for split, (inputs, targets) in found.to_numpy(found.receive(batch)).items():
        assert_identical(inputs, batch[split][0].astype(np.float64))
        wanted = batch[split][1]
        assert_identical(targets, wanted if wanted.dtype == np.int64 else wanted.astype(np.float64))
