"""Episode batches as tensors: images NCHW, and a loader that is a `torch.utils.data.DataLoader`."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from metabridge.checks import check_instance, check_mapping
from metabridge.episodes.batches import WHOLE
from metabridge.episodes.loader import EpisodeLoader
from metabridge.episodes.metadatasets import MetaDataset
from metabridge.episodes.plans import EpisodePlan
from metabridge.episodes.position import EpisodePosition
from metabridge.episodes.segmentation import SegmentationMetaDataset
from metabridge.transforms.images import advice_on_preparation, prepares

__all__ = ["BatchMetaDataLoader", "feed", "place", "to_backend", "to_numpy"]

Data = dict[str, tuple[Tensor, Tensor]]


def to_backend(batch: Mapping[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> Data:
    """An episode batch as CPU tensors, with the same numbers.

    Images `(B, n, H, W, C)` become `(B, n, C, H, W)`; everything else keeps its shape. Memory is shared with the
    batch where the layout allows.
    """
    check_mapping(batch, "batch", "pass an episode batch with a splitter")
    return {
        name: (torch.from_numpy(_channels_first(inputs)), torch.from_numpy(np.ascontiguousarray(targets)))
        for name, (inputs, targets) in batch.items()
    }


def to_numpy(
    data: Mapping[str, tuple[Tensor, Tensor]],
) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Tensors back in NumPy and in the core's layout; the inverse of `to_backend`."""
    check_mapping(data, "data")
    return {
        name: (_channels_last(inputs.detach().cpu().numpy()), targets.detach().cpu().numpy())
        for name, (inputs, targets) in data.items()
    }


def _channels_first(inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(np.moveaxis(inputs, -1, -3)) if inputs.ndim == 5 else inputs


def _channels_last(inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.moveaxis(inputs, -3, -1) if inputs.ndim == 5 else inputs


class _Episodes(Dataset[Any]):
    """Plan → tensors: gathered, in torch's layout, transformed; in this process or in a worker."""

    def __init__(self, dataset: MetaDataset, transform: Callable[[Tensor], Tensor] | None = None) -> None:
        self.dataset = dataset
        self.transform = transform

    def __getitem__(self, plan: EpisodePlan) -> Any:
        data = to_backend(self.dataset.gather(plan))
        if self.transform is not None:
            data = {name: (_each_image(self.transform, inputs), targets) for name, (inputs, targets) in data.items()}
        return data if self.dataset.splitter or WHOLE not in data else list(data[WHOLE])


def feed(loader: EpisodeLoader, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Iterator[Data]:
    """The batches of a loader as tensors on a device, in order; the loader's position moves with each.

    The road of `BatchMetaDataLoader`, in this process.

    Args:
        loader: plans the episodes.
        device: where the tensors go; `None` is the CPU.
        dtype: dtype of inputs and of targets that are no integers; `None` keeps float32.

    Yields:
        `{"train": (inputs, targets), "test": (inputs, targets)}`, without a splitter one list `[inputs, targets]`.
    """
    check_instance(loader, EpisodeLoader, "loader")
    episodes = _Episodes(loader.dataset)
    return loader.deliver(place(episodes[plan], device, dtype) for plan in loader.plans())


def place(data: Any, device: torch.device | None, dtype: torch.dtype | None) -> Any:
    """A batch of tensors on a device, numbers that are no integers in a dtype."""
    if isinstance(data, Mapping):
        return {name: place(tensors, device, dtype) for name, tensors in data.items()}
    return type(data)(tensor.to(device, dtype if tensor.is_floating_point() else None) for tensor in data)


def _each_image(transform: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """`transform` of every image by itself: of `(B, n, C, H, W)` at once, a random one would draw only once."""
    if inputs.ndim != 5:
        raise ValueError(f"`transform` is for images (B, n, C, H, W), got inputs of shape {tuple(inputs.shape)}.")
    images = torch.stack([transform(image) for image in inputs.flatten(0, 1)])
    return images.unflatten(0, inputs.shape[:2])


def _unchanged(data: Any) -> Any:
    """The data of a worker as it is: torch's default collation turns pairs into lists."""
    return data


class _RemainingPlans:
    """The plans of the rest of the epoch: the sampler of a `DataLoader`."""

    def __init__(self, episodes: EpisodeLoader) -> None:
        self.episodes = episodes

    def __iter__(self) -> Iterator[EpisodePlan]:
        return self.episodes.plans()

    def __len__(self) -> int:
        return len(self.episodes)


class BatchMetaDataLoader(EpisodePosition, DataLoader[Any]):
    """Batches of episodes as tensors, with Torchmeta's interface.

    Yields `{"train": (inputs, targets), "test": (inputs, targets)}`: images `(B, N·k, C, H, W)` float32 in
    [0, 1], class targets `(B, N·k)` int64, regression targets `(B, k, 1)` float32. Without a splitter it yields
    one list `[inputs, targets]`, which a type checker takes for such a mapping.

    A real `torch.utils.data.DataLoader`: the main process plans episodes (integers), workers gather them. Which
    episodes come depends on `seed`, `start` and `shard` alone, never on the number of workers. Torchmeta takes
    episodes from Python's global random state; here the seed decides. As in Torchmeta an epoch has as many episodes as
    there are tasks, unless you set its length; here tasks are drawn with replacement, and every batch is full.

    >>> from metabridge.toy.helpers import sinusoid
    >>> loader = BatchMetaDataLoader(sinusoid(shots=10), batch_size=25, seed=0, num_batches=100)
    >>> inputs, targets = next(iter(loader))["train"]
    >>> tuple(inputs.shape), inputs.dtype
    ((25, 10, 1), torch.float32)

    Args:
        dataset: a meta-dataset.
        batch_size: episodes per batch and rank.
        seed: seed of the episodes; `None` takes the dataset's.
        num_batches: batches per loop over the loader; `None` takes as many as make at least as many episodes as there
            are tasks, `math.inf` is endless. Each loop goes on with new episodes; `seek(start)` goes back to the first.
        shard: `(rank, world)`.
        start: index of the first episode.
        kwargs: `transform`, a function of one image tensor `(C, H, W)`, such as a transform of torchvision's v2,
            which is called for every image; and further arguments of `DataLoader`: `num_workers`, `pin_memory`,
            `prefetch_factor`, `persistent_workers`, `timeout`, `worker_init_fn`, `multiprocessing_context`, ….
            What `transform` draws comes from torch's global random state and is outside the promise that the
            seed decides everything; the meta-dataset's own `transform` is inside.

    Raises:
        TypeError: for a `transform` of a segmentation, whose masks it would not see; and for an argument of
            `DataLoader` that would choose or collate episodes (`sampler`, `collate_fn`, `shuffle=False`,
            `in_order=False`, …), unless it has the value that means nothing is chosen.
    """

    batch_size: int
    """Episodes per batch and rank."""

    def __init__(
        self,
        dataset: MetaDataset,
        batch_size: int = 1,
        *,
        seed: int | None = None,
        num_batches: int | float | None = None,
        shard: tuple[int, int] = (0, 1),
        start: int = 0,
        **kwargs: Any,
    ) -> None:
        transform = kwargs.pop("transform", None)
        if transform is not None and not callable(transform):
            raise TypeError(f"`transform` must be a function of an image tensor, got {transform!r}.")
        if prepares(transform):
            advice = advice_on_preparation(transform)
            raise TypeError(f"`transform` takes tensors of images, got {transform!r}; {advice}")
        if transform is not None and isinstance(dataset, SegmentationMetaDataset):
            raise TypeError(
                "`transform` must be left out for a segmentation: it would change images and leave their masks; give "
                "the meta-dataset transforms of metabridge.transforms, which change both."
            )
        _refuse_choosers(kwargs)
        self.episodes = EpisodeLoader(dataset, batch_size, num_batches, seed, shard, start)
        plans = _RemainingPlans(self.episodes)
        super().__init__(
            _Episodes(self.episodes.dataset, transform),
            batch_size=None,
            sampler=plans,
            collate_fn=_unchanged,
            **kwargs,
        )
        # To a DataLoader a plan is an example: it has no batch size of its own, and lets none be assigned.
        self.__dict__["batch_size"] = self.episodes.batch_size

    def __iter__(self) -> Iterator[Data]:  # type: ignore[override]  # DataLoader promises its own class
        return self.episodes.deliver(_explained(super().__iter__()))


def _explained(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches; where a worker died, torch's error with a cause that it does not know."""
    try:
        yield from batches
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise RuntimeError(
            f"{str(error).rstrip(' .')}. After a bus error look at your stores: one that was cut short or overwritten "
            "while it was open ends its readers. Check it with `metabridge build NAME --verify`."
        ) from error


_CHOOSERS = {"sampler": None, "batch_sampler": None, "collate_fn": None, "drop_last": False, "generator": None}
"""Argument of a `DataLoader` → the value with which it chooses nothing."""


def _refuse_choosers(kwargs: dict[str, Any]) -> None:
    if kwargs.pop("shuffle", True) is not True:
        raise TypeError(
            "`shuffle=False` is not offered: a loader draws episodes at random; "
            "iterate over the dataset to get all its tasks in order."
        )
    if kwargs.get("in_order", True) is not True:
        raise TypeError(
            "`in_order=False` is not offered: the order of episodes may not depend on workers; leave it out."
        )
    for name, default in _CHOOSERS.items():
        if kwargs.pop(name, default) is not default:
            raise TypeError(
                f"`{name}` is not an argument here: `seed`, `start` and `shard` choose the episodes; leave it out."
            )
