"""Episode batches as JAX arrays: images NHWC, the core's own layout."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np
import numpy.typing as npt

from metabridge.checks import check_count, check_instance, check_mapping
from metabridge.episodes.batches import WHOLE, EpisodeBatch
from metabridge.episodes.loader import EpisodeLoader
from metabridge.episodes.metadatasets import MetaDataset
from metabridge.episodes.position import EpisodePosition

__all__ = ["BatchMetaDataLoader", "feed", "place", "to_backend", "to_numpy"]

Data = dict[str, tuple[jax.Array, jax.Array]]

T = TypeVar("T")
R = TypeVar("R")


def to_backend(batch: Mapping[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> Data:
    """An episode batch as JAX arrays on the default device, with the same numbers and shapes.

    Class targets are int32, or int64 in JAX's 64-bit mode.
    """
    check_mapping(batch, "batch", "pass an episode batch with a splitter")
    integer = jax.dtypes.canonicalize_dtype(np.int64)
    return {
        name: (jax.device_put(inputs), jax.device_put(_cast_integers(targets, integer)))
        for name, (inputs, targets) in batch.items()
    }


def to_numpy(
    data: Mapping[str, tuple[jax.Array, jax.Array]],
) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Arrays back in NumPy and in the core's layout and integer type; the inverse of `to_backend`."""
    check_mapping(data, "data")
    return {
        name: (np.asarray(inputs), _cast_integers(np.asarray(targets), np.dtype(np.int64)))
        for name, (inputs, targets) in data.items()
    }


def _cast_integers(array: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    return array.astype(dtype, copy=False) if np.issubdtype(array.dtype, np.integer) else array


def feed(loader: EpisodeLoader, device: jax.Device | None = None, dtype: str | None = None) -> Iterator[Data]:
    """The batches of a loader as arrays on a device, in order; the loader's position moves with each.

    The road of `BatchMetaDataLoader`.

    Args:
        loader: plans the episodes.
        device: where the arrays go; `None` is JAX's default.
        dtype: dtype of inputs and of targets that are no integers; `None` keeps float32.

    Yields:
        `{"train": (inputs, targets), "test": (inputs, targets)}`, without a splitter one list `[inputs, targets]`.
    """
    check_instance(loader, EpisodeLoader, "loader")
    return _feed(loader, device, dtype)


def _feed(
    loader: EpisodeLoader,
    device: jax.Device | None = None,
    dtype: str | None = None,
    num_workers: int = 0,
    prefetch_factor: int = 2,
) -> Iterator[Data]:

    def deliver(batch: EpisodeBatch) -> Any:
        data = place(to_backend(batch), device, dtype)
        return data if loader.dataset.splitter or WHOLE not in data else list(data[WHOLE])

    # Threads gather in NumPy; arrays are made here, since JAX's modes and default device belong to a thread.
    batches = _ahead(loader.dataset.gather, loader.plans(), num_workers, prefetch_factor)
    return loader.deliver(map(deliver, batches))


def _ahead(function: Callable[[T], R], arguments: Iterable[T], num_workers: int, prefetch_factor: int) -> Iterator[R]:
    """`map(function, arguments)`, in threads that are ahead by `num_workers · prefetch_factor` results."""
    if not num_workers:
        yield from map(function, arguments)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(num_workers, "episodes") as threads:
        for argument in arguments:
            waiting.append(threads.submit(function, argument))
            if len(waiting) > num_workers * prefetch_factor:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def place(data: Any, device: jax.Device | None, dtype: str | None) -> Any:
    """A batch of arrays on a device, numbers that are no integers in a dtype."""

    if isinstance(data, Mapping):
        return {name: place(arrays, device, dtype) for name, arrays in data.items()}
    return type(data)(jax.device_put(_cast_floating(array, dtype), device) for array in data)


def _cast_floating(array: jax.Array, dtype: str | None) -> jax.Array:
    floating = jax.numpy.issubdtype(array.dtype, jax.numpy.floating)
    return array.astype(dtype) if dtype is not None and floating else array


class BatchMetaDataLoader(EpisodePosition):
    """Batches of episodes as JAX arrays; the mirror of `torch_backend.data.BatchMetaDataLoader`.

    Yields `{"train": (inputs, targets), "test": (inputs, targets)}`: images `(B, N·k, H, W, C)` float32 in
    [0, 1], class targets `(B, N·k)` int32 (int64 in 64-bit mode), regression targets `(B, k, 1)` float32: bit
    for bit the numbers the torch loader yields. Without a splitter it yields one list `[inputs, targets]`, which a type
    checker takes for such a mapping.

    >>> from metabridge.toy.helpers import sinusoid
    >>> loader = BatchMetaDataLoader(sinusoid(shots=10), batch_size=25, seed=0, num_batches=100)
    >>> inputs, targets = next(iter(loader))["train"]
    >>> inputs.shape, inputs.dtype
    ((25, 10, 1), dtype('float32'))

    Args:
        dataset: a meta-dataset.
        batch_size: episodes per batch and rank.
        seed: seed of the episodes; `None` takes the dataset's.
        num_batches: batches per loop over the loader; `None` takes as many as make at least as many episodes as there
            are tasks, `math.inf` is endless. Each loop goes on with new episodes; `seek(start)` goes back to the first.
        shard: `(rank, world)`.
        start: index of the first episode.
        num_workers: threads that gather the next batches while this one is used; 0 gathers each when it is asked for.
            Which episodes come does not depend on it.
        prefetch_factor: batches that each thread is ahead.
    """

    def __init__(
        self,
        dataset: MetaDataset,
        batch_size: int = 1,
        *,
        seed: int | None = None,
        num_batches: int | float | None = None,
        shard: tuple[int, int] = (0, 1),
        start: int = 0,
        num_workers: int = 0,
        prefetch_factor: int = 2,
    ) -> None:
        self.episodes = EpisodeLoader(dataset, batch_size, num_batches, seed, shard, start)
        self.batch_size = self.episodes.batch_size
        self.num_workers = check_count(num_workers, "num_workers", least=0)
        self.prefetch_factor = check_count(prefetch_factor, "prefetch_factor")

    def __iter__(self) -> Iterator[Data]:
        return _feed(self.episodes, num_workers=self.num_workers, prefetch_factor=self.prefetch_factor)
