"""The `backend` fixture: every test that takes it runs once in PyTorch and once in JAX."""

import pytest

from backends.kits import FRAMEWORKS, make_kit


@pytest.fixture(params=FRAMEWORKS)
def backend(request):
    """A backend's kit; the framework's global state is the user's."""
    return make_kit(request.param)


@pytest.fixture
def backend64(backend):
    """A backend's kit while the framework computes in float64."""
    with backend.float64():
        yield backend


@pytest.fixture
def torch_kit():
    """PyTorch alone."""
    return make_kit("torch")


@pytest.fixture
def jax_kit():
    """JAX alone."""
    return make_kit("jax")
