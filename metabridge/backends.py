"""What metabridge asks of a framework, and how a framework is found by name."""

import importlib.metadata
import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from metabridge.configs import RunConfig
from metabridge.episodes.batches import EpisodeBatch
from metabridge.networks.parameters import Parameters

__all__ = ["Backend", "Learner", "backend_names", "check_finite", "load_backend"]

_GROUP = "metabridge.backends"
_OWN = {"torch": "torch_backend.backend:Backend", "jax": "jax_backend.backend:Backend"}


class Learner(Protocol):
    """Parameters, optimiser and algorithm of one run. Batches are what the backend's `receive` gave."""

    def step(self, batch: Any) -> float:
        """One meta-step; returns the meta-objective before it."""

    def meta_gradient(self, batch: Any) -> tuple[float, Parameters]:
        """The meta-objective at the current parameters and its gradient, as neutral parameters."""

    def objective_at(self, parameters: Parameters, batch: Any) -> float:
        """The meta-objective at other (neutral) parameters."""

    def predict(self, batch: Any, inner_steps: int | None = None) -> npt.NDArray[np.floating]:
        """Query outputs `(B, n, outputs)` after `inner_steps` of adapting to each task (default: the run's)."""

    def evaluate(self, batch: Any, inner_steps: int | None = None) -> npt.NDArray[np.float64]:
        """`(B,)` quality of each task after `inner_steps` (default: the run's): accuracy, or mean squared error."""

    def parameters(self) -> Parameters:
        """The current parameters, neutral."""


class Backend(Protocol):
    """A framework on one device in one precision."""

    name: str

    @property
    def version(self) -> str:
        """The framework's version."""

    @property
    def device(self) -> str:
        """What computes, in words."""

    def receive(self, batch: EpisodeBatch) -> Any:
        """The batch on the device, in the framework's layout and this backend's precision."""

    def to_numpy(self, data: Any) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """What `receive` gave, back in NumPy and in the core's layout."""

    def learner(self, run: RunConfig, parameters: Parameters) -> Learner:
        """A learner of `run` from these neutral parameters."""


def backend_names() -> list[str]:
    """Names of all backends: metabridge's two, and those other distributions register."""
    return list(_entry_points())


def load_backend(name: str, device: str = "auto", dtype: str = "float32") -> Backend:
    """The backend `name`, whose framework is imported now.

    Backends are entry points of the group `metabridge.backends`, so other distributions may add theirs. The two of
    metabridge also work from a checkout that is not installed.

    Raises:
        ValueError: for an unknown name.
        ModuleNotFoundError: if its framework is not installed; the message says which extra brings it.
    """
    entries = _entry_points()
    if name not in entries:
        raise ValueError(f"`backend` must be one of {', '.join(map(repr, entries))}, got {name!r}.")
    entry = entries[name]
    try:
        make = entry.load()
    except ModuleNotFoundError as error:
        if name not in _OWN or (error.name or "").split(".")[0] == entry.module.split(".")[0]:
            raise
        raise ModuleNotFoundError(
            f"the {name} backend needs the package {error.name!r}, which is not installed; "
            f"install it with `pip install 'metabridge[{name}]'`.",
            name=error.name,
        ) from None
    backend: Backend = make(device, dtype)
    return backend


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    """Name → backend; metabridge's own first, whether installed or not."""
    own = {name: importlib.metadata.EntryPoint(name, value, _GROUP) for name, value in _OWN.items()}
    return own | {entry.name: entry for entry in importlib.metadata.entry_points(group=_GROUP)}


def check_finite(objective: float, step: int) -> float:
    """`objective` itself; raise `FloatingPointError` if it is NaN or infinite."""
    if not math.isfinite(objective):
        raise FloatingPointError(
            f"the meta-objective is {objective} at meta-step {step}; training stopped with the parameters before it. "
            "Lower the inner or the outer learning rate."
        )
    return objective
