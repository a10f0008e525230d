"""JAX as a backend of metabridge."""

from collections.abc import Iterator
from typing import Any

import jax

from jax_backend.data import Data, feed, place, to_backend, to_numpy
from jax_backend.training import Learner, precision
from metabridge.configs import RunConfig
from metabridge.episodes.batches import EpisodeBatch
from metabridge.episodes.loader import EpisodeLoader
from metabridge.networks.parameters import Parameters

__all__ = ["Backend"]


class Backend:
    """Everything metabridge asks of JAX; see `metabridge.backends.Backend`.

    Args:
        device: `"auto"` (a GPU if there is one), `"cpu"` or `"gpu"`.
        dtype: `"float32"` or `"float64"`.

    Raises:
        ValueError: for an unknown device or dtype, or a GPU where there is none.
    """

    name = "jax"

    def __init__(self, device: str = "auto", dtype: str = "float32") -> None:
        if dtype not in ("float32", "float64"):
            raise ValueError(f"`dtype` must be 'float32' or 'float64', got {dtype!r}.")
        self.dtype = dtype
        self._device = _find_device(device)

    @property
    def version(self) -> str:
        """Version of JAX."""
        return jax.__version__

    @property
    def device(self) -> str:
        """The device in words."""
        return "cpu" if self._device.platform == "cpu" else self._device.device_kind

    def feed(self, loader: EpisodeLoader) -> Iterator[Data]:
        """The batches of a loader on the device, inputs in this backend's layout and dtype."""
        batches = feed(loader, self._device, self.dtype)
        while True:
            # Off again while the caller works with a batch.
            with precision(self.dtype), jax.default_device(self._device):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def receive(self, batch: EpisodeBatch) -> Data:
        """One batch on the device, as `feed` yields it."""
        with precision(self.dtype), jax.default_device(self._device):
            return place(to_backend(batch), self._device, self.dtype)

    def to_numpy(self, data: Data) -> dict[str, Any]:
        """A received batch back in NumPy and in the core's layout."""
        return to_numpy(data)

    def learner(self, run: RunConfig, parameters: Parameters) -> Learner:
        """A learner of `run` from these neutral parameters."""
        return Learner(run, parameters, self.dtype, self._device)


def _find_device(device: str) -> jax.Device:
    if device not in ("auto", "cpu", "gpu"):
        raise ValueError(f"`device` must be 'auto', 'cpu' or 'gpu', got {device!r}.")
    if device == "auto":
        return jax.devices()[0]
    try:
        return jax.devices(device)[0]
    except RuntimeError:
        raise ValueError(
            f"`device` is {device!r} but JAX sees none; use 'cpu', or install a CUDA build of jax."
        ) from None
