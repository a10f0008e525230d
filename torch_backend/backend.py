"""PyTorch as a backend of metabridge."""

from collections.abc import Iterator
from typing import Any

import torch

from metabridge.configs import RunConfig
from metabridge.episodes.batches import EpisodeBatch
from metabridge.episodes.loader import EpisodeLoader
from metabridge.networks.parameters import Parameters
from torch_backend.data import Data, feed, place, to_backend, to_numpy
from torch_backend.training import Learner

__all__ = ["Backend"]


class Backend:
    """Everything metabridge asks of PyTorch; see `metabridge.backends.Backend`.

    Args:
        device: `"auto"` (a GPU if there is one), `"cpu"` or `"gpu"`.
        dtype: `"float32"` or `"float64"`.

    Raises:
        ValueError: for an unknown device or dtype, or a GPU where there is none.
    """

    name = "torch"

    def __init__(self, device: str = "auto", dtype: str = "float32") -> None:
        if dtype not in ("float32", "float64"):
            raise ValueError(f"`dtype` must be 'float32' or 'float64', got {dtype!r}.")
        self.dtype = dtype
        self._device = _find_device(device)

    @property
    def version(self) -> str:
        """Version of PyTorch."""
        return str(torch.__version__)

    @property
    def device(self) -> str:
        """The device in words."""
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"

    def feed(self, loader: EpisodeLoader) -> Iterator[Data]:
        """The batches of a loader on the device, inputs in this backend's layout and dtype."""
        return feed(loader, self._device, self._torch_dtype)

    def receive(self, batch: EpisodeBatch) -> Data:
        """One batch on the device, as `feed` yields it."""
        return place(to_backend(batch), self._device, self._torch_dtype)

    @property
    def _torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def to_numpy(self, data: Data) -> dict[str, Any]:
        """A received batch back in NumPy and in the core's layout."""
        return to_numpy(data)

    def learner(self, run: RunConfig, parameters: Parameters) -> Learner:
        """A learner of `run` from these neutral parameters."""
        return Learner(run, parameters, self.dtype, self._device)


def _find_device(device: str) -> torch.device:
    if device not in ("auto", "cpu", "gpu"):
        raise ValueError(f"`device` must be 'auto', 'cpu' or 'gpu', got {device!r}.")
    if device == "gpu" and not torch.cuda.is_available():
        raise ValueError("`device` is 'gpu' but PyTorch sees none; use 'cpu', or install a CUDA build of torch.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
