"""JAX as a backend of metabridge."""

from typing import Any

import jax

from jax_backend.data import Data, to_backend, to_numpy
from jax_backend.training import Learner, precision
from metabridge.configs import RunConfig
from metabridge.episodes.batches import EpisodeBatch
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
        """What computes, in words."""
        return "cpu" if self._device.platform == "cpu" else self._device.device_kind

    def receive(self, batch: EpisodeBatch) -> Data:
        """The batch on the device, inputs in this backend's layout and dtype."""
        with precision(self.dtype), jax.default_device(self._device):
            data = to_backend(batch)
            return {name: (self._cast(inputs), self._cast(targets)) for name, (inputs, targets) in data.items()}

    def _cast(self, array: jax.Array) -> jax.Array:
        return array.astype(self.dtype) if jax.numpy.issubdtype(array.dtype, jax.numpy.floating) else array

    def to_numpy(self, data: Data) -> dict[str, Any]:
        """What `receive` gave, back in NumPy and in the core's layout."""
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
