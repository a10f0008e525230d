"""The protocols of a backend and its parts, and the look-up of a backend by name."""

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from metabridge.configs import RunConfig
from metabridge.episodes.batches import EpisodeBatch
from metabridge.episodes.loader import EpisodeLoader
from metabridge.networks.parameters import Parameters
from metabridge.runs.losses import StepLoss
from metabridge.runs.states import State

__all__ = ["Algorithm", "Backend", "Learner", "backend_names", "load_backend"]

_GROUP = "metabridge.backends"
_OWN = {"torch": "torch_backend.backend:Backend", "jax": "jax_backend.backend:Backend"}


class Algorithm(Protocol):
    """A meta-learning algorithm as pure functions of its meta-parameters; see a backend's `algorithms.Algorithm`.

    `params` are the meta-parameters, a batch is B tasks on the device.
    """

    def loss(self, params: Any, batch: Any) -> Any:
        """The meta-loss, a scalar that can be differentiated."""

    def meta_gradient(self, params: Any, batch: Any) -> tuple[Any, Any]:
        """The meta-loss and its gradient, a tree like `params`."""

    def predict(self, params: Any, batch: Any, steps: int | None = None) -> Any:
        """Query outputs `(B, n, …)`; `steps` inner steps, `None` for the algorithm's own number."""


class Learner(Protocol):
    """Parameters, optimiser and algorithm of one run. Batches are those that the backend's `feed` yields."""

    @property
    def steps_done(self) -> int:
        """Meta-steps done; refused ones do not count."""

    def step(self, batch: Any) -> StepLoss:
        """Do one meta-step and return the meta-loss before it; read it with `float`. It does not wait for the device.

        A step whose loss, gradient or update is not finite changes nothing. Its loss, and every look at the learner
        before that loss was read, raises `FloatingPointError`.
        """

    def meta_gradient(self, batch: Any) -> tuple[float, Parameters]:
        """The meta-loss at the current parameters and its gradient, as neutral parameters."""

    def loss_at(self, parameters: Parameters, batch: Any) -> float:
        """The meta-loss at other (neutral) parameters."""

    def predict(self, batch: Any, inner_steps: int | None = None) -> npt.NDArray[np.floating]:
        """Query outputs `(B, n, outputs)` after `inner_steps` of adapting to each task (default: the run's)."""

    def evaluate(self, batch: Any, inner_steps: int | None = None) -> npt.NDArray[np.float64]:
        """`(B,)` quality of each task after `inner_steps` (default: the run's): accuracy, or mean squared error."""

    def parameters(self) -> Parameters:
        """The current parameters, neutral."""

    def state(self) -> State:
        """Parameters, optimiser state and number of steps as one flat mapping; see `metabridge.runs.states`."""

    def load_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue from a state that a learner of either backend returned.

        Raises:
            ValueError: for the state of another network or optimiser. Then nothing was loaded.
        """


class Backend(Protocol):
    """A framework on one device in one precision."""

    name: str

    @property
    def version(self) -> str:
        """The framework's version."""

    @property
    def device(self) -> str:
        """The device in words."""

    def feed(self, loader: EpisodeLoader) -> Iterator[Any]:
        """The batches of a loader on the device, in the framework's layout and this backend's precision.

        The one road from episodes to a device. It takes a loader, not arrays: the loader's plans are integers, and a
        backend may gather their examples where it likes.
        """

    def receive(self, batch: EpisodeBatch) -> Any:
        """One batch on the device, as `feed` yields it."""

    def to_numpy(self, data: Any) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """A received batch back in NumPy and in the core's layout."""

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
