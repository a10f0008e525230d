"""Episode batches as JAX arrays: images NHWC, the core's own layout."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import numpy.typing as npt

from metabridge.episodes.batches import WHOLE
from metabridge.episodes.loader import EpisodeLoader
from metabridge.episodes.metadatasets import MetaDataset
from metabridge.episodes.position import EpisodePosition

__all__ = ["BatchMetaDataLoader", "feed", "place", "to_backend", "to_numpy"]

Data = dict[str, tuple[jax.Array, jax.Array]]


def to_backend(batch: Mapping[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> Data:
    """An episode batch as JAX arrays on the default device, with the same numbers and shapes.

    Class targets are int32, or int64 in JAX's 64-bit mode.
    """
    integer = jax.dtypes.canonicalize_dtype(np.int64)
    return {
        name: (jax.device_put(inputs), jax.device_put(_cast_integers(targets, integer)))
        for name, (inputs, targets) in batch.items()
    }


def to_numpy(
    data: Mapping[str, tuple[jax.Array, jax.Array]],
) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Arrays back in NumPy and in the core's layout and integer type; the inverse of `to_backend`."""
    return {
        name: (np.asarray(inputs), _cast_integers(np.asarray(targets), np.dtype(np.int64)))
        for name, (inputs, targets) in data.items()
    }


def _cast_integers(array: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return array.astype(dtype, copy=False) if np.issubdtype(array.dtype, np.integer) else array


def feed(loader: EpisodeLoader, device: jax.Device | None = None, dtype: str | None = None) -> Iterator[Any]:
    """The batches of a loader as arrays on a device, in order; the loader's position moves with each.

    The road of `BatchMetaDataLoader`.

    Args:
        loader: plans the episodes.
        device: where the arrays go; `None` is JAX's default.
        dtype: dtype of inputs and of targets that are no integers; `None` keeps float32.

    Yields:
        `{"train": (inputs, targets), "test": (inputs, targets)}`, without a splitter one pair.
    """

    def deliver(batch: Mapping[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> Any:
        data = place(to_backend(batch), device, dtype)
        return data if loader.dataset.splitter else data[WHOLE]

    return loader.deliver(deliver(loader.dataset.gather(plan)) for plan in loader.plans())


def place(data: Any, device: jax.Device | None, dtype: str | None) -> Any:
    """A batch of arrays on a device, numbers that are no integers in a dtype."""

    if isinstance(data, Mapping):
        return {name: place(arrays, device, dtype) for name, arrays in data.items()}
    return tuple(jax.device_put(_cast_floating(array, dtype), device) for array in data)


def _cast_floating(array: jax.Array, dtype: str | None) -> jax.Array:
    floating = jax.numpy.issubdtype(array.dtype, jax.numpy.floating)
    return array.astype(dtype) if dtype is not None and floating else array


class BatchMetaDataLoader(EpisodePosition):
    """Batches of episodes as JAX arrays; the mirror of `torch_backend.data.BatchMetaDataLoader`.

    Yields `{"train": (inputs, targets), "test": (inputs, targets)}`: images `(B, N·k, H, W, C)` float32 in
    [0, 1], class targets `(B, N·k)` int32 (int64 in 64-bit mode), regression targets `(B, k, 1)` float32: bit
    for bit the numbers the torch loader yields. Without a splitter it yields one pair `(inputs, targets)`.

    >>> from metabridge.toy.helpers import sinusoid
    >>> loader = BatchMetaDataLoader(sinusoid(shots=10), batch_size=25, seed=0, num_batches=100)
    >>> inputs, targets = next(iter(loader))["train"]
    >>> inputs.shape, inputs.dtype
    ((25, 10, 1), dtype('float32'))

    Args:
        dataset: a meta-dataset.
        batch_size: episodes per batch and rank.
        seed: seed of the episodes; `None` takes the dataset's.
        num_batches: batches per loop over the loader; endless by default. Each loop goes on with new episodes;
            `seek(start)` goes back to the first.
        shard: `(rank, world)`.
        start: index of the first episode.
    """

    def __init__(
        self,
        dataset: MetaDataset,
        batch_size: int = 1,
        *,
        seed: int | None = None,
        num_batches: int | float = math.inf,
        shard: tuple[int, int] = (0, 1),
        start: int = 0,
    ) -> None:
        self.episodes = EpisodeLoader(dataset, batch_size, num_batches, seed, shard, start)

    def __iter__(self) -> Iterator[Any]:
        return feed(self.episodes)
