"""Episode batches: the arrays of a batch of episodes, framework-neutral."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from metabridge.digests import Digest
from metabridge.episodes.plans import TRANSFORM_LANE, EpisodePlan
from metabridge.sources.base import ClassSource
from metabridge.streams import philox_words
from metabridge.transforms.classes import ClassAugmentation
from metabridge.transforms.images import ImageTransform, transform_images

__all__ = [
    "PADDING",
    "WHOLE",
    "Arrays",
    "EpisodeBatch",
    "Slots",
    "arrays_digest",
    "augment_classes",
    "gather_batch",
    "read_splits",
    "to_float32",
    "transform_words",
]

S = TypeVar("S", bound=np.generic)

Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[Any]]
"""Inputs and targets of one split."""

WHOLE = "all"
"""Name of the only split of a meta-dataset without a splitter."""

PADDING = -100
"""Target of an example that is padding: the `ignore_index` of both backends' losses and metrics."""


class EpisodeBatch(Mapping[str, Arrays]):
    """A batch of B episodes: a mapping from split name to `(inputs, targets)`.

    For N-way classification `inputs` is `(B, N·k, H, W, channels)` float32 in [0, 1] (`(B, N·k, features)` for
    vectors) and `targets` is `(B, N·k)` int64 in [0, N), both grouped by class in the task's class order.
    For regression both are `(B, k, 1)` float32; for segmentation `targets` are masks `(B, k, H, W)` int64.

    With a `WeightedClassSplitter` episodes may differ in their number of examples. Then arrays are as long as the
    longest episode of the batch, and behind the examples of a shorter one inputs are 0 and targets `PADDING`, which
    losses and metrics of both backends leave out; `IGNORED` in masks of a segmentation.

    Attributes:
        plan: the integers that decided these arrays.
    """

    def __init__(self, plan: EpisodePlan, splits: Mapping[str, Arrays]) -> None:
        self.plan = plan
        self._splits = dict(splits)

    def __getitem__(self, name: str) -> Arrays:
        try:
            return self._splits[name]
        except KeyError:
            raise KeyError(f"no split {name!r}; this batch has {', '.join(map(repr, self._splits))}.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {inputs.shape} → {targets.shape}" for name, (inputs, targets) in self.items())
        return f"EpisodeBatch({len(self.plan)} episodes; {shapes})"

    @property
    def masks(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Split → `(B, n)`: whether an example is there, or padding."""
        return self.plan.masks()

    def digest(self) -> str:
        """Hexadecimal BLAKE2b over names, shapes, dtypes and bytes of all arrays."""
        return arrays_digest({name: self[name] for name in self})


def arrays_digest(splits: Mapping[str, tuple[npt.NDArray[Any], ...]]) -> str:
    """Hexadecimal BLAKE2b over names, shapes, dtypes and bytes of the arrays of every split."""
    digest = Digest()
    for name, arrays in splits.items():
        for array in arrays:
            digest.add(f"{name} {array.shape} {array.dtype.newbyteorder('<').str}\n").add_array(array)
    return digest.hexadecimal()


def to_float32(examples: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Model inputs of stored examples: uint8 images become `x / 255` computed in float32, features are cast.

    Raises:
        ValueError: for a finite feature that is infinite in float32.
    """
    if examples.dtype != np.uint8:
        try:
            with np.errstate(over="raise"):
                return examples.astype(np.float32)
        except FloatingPointError:
            raise ValueError(
                f"`examples` must fit float32, got {examples.dtype} features of up to {np.abs(examples).max():g}; "
                "scale them first."
            ) from None
    # One pass: the conversion happens in cache-sized pieces inside the division.
    return np.divide(examples, np.float32(255), dtype=np.float32)


def gather_batch(
    plan: EpisodePlan,
    source: ClassSource,
    augmentations: Sequence[ClassAugmentation] = (),
    transforms: Sequence[ImageTransform] = (),
    query_source: ClassSource | None = None,
) -> EpisodeBatch:
    """Copy the examples that `plan` names out of `source`, and transform them.

    Class id `c` stands for class `c % C` of the source under augmentation number `c // C` (0: none). The words
    of a transform are those of its lane in the episode's stream, N for every example position as in the plan.

    Args:
        plan: B episodes.
        source: where the examples of the first split are, and of the others without `query_source`.
        augmentations: the single class augmentations.
        transforms: image transforms, one after another.
        query_source: where the examples of all splits but the first are.

    Raises:
        IndexError: if `plan` names a class or an example that is not there.
    """
    words = transform_words(plan, transforms)
    splits = {}
    for name, slots, examples in read_splits(plan, source, augmentations, query_source):
        inputs = transform_images(transforms, to_float32(examples), [lane[slots.used] for lane in words])
        labels = plan.labels.reshape(-1).take(slots.used // plan.examples.shape[2])
        splits[name] = (slots.by_episode(inputs, 0), slots.by_episode(labels, PADDING))
    return EpisodeBatch(plan, splits)


class Slots(NamedTuple):
    """Where a split's examples stand in `plan.examples`, flattened, and in the arrays of a batch.

    Attributes:
        used: `(examples,)` places in `plan.examples`, episode by episode and class by class.
        shape: `(B, n)`, the first axes of the batch's arrays.
        mask: `(B, n)` where the examples stand in these, one after another; `None` if everywhere.
    """

    used: npt.NDArray[np.int64]
    shape: tuple[int, int]
    mask: npt.NDArray[np.bool_] | None

    def by_episode(self, array: npt.NDArray[S], padding: int) -> npt.NDArray[S]:
        """`(examples, …)` → `(B, n, …)`, with `padding` behind the examples of shorter episodes."""
        shape = (*self.shape, *array.shape[1:])
        if self.mask is None:
            return array.reshape(shape)
        padded = np.full(shape, padding, dtype=array.dtype)
        padded[self.mask] = array
        return padded


def read_splits(
    plan: EpisodePlan,
    source: ClassSource,
    augmentations: Sequence[ClassAugmentation] = (),
    query_source: ClassSource | None = None,
) -> Iterator[tuple[str, Slots, npt.NDArray[Any]]]:
    """The stored examples of each split, augmented; arguments as for `gather_batch`. All are read at once.

    Returns:
        For each split its name, the places of its examples, and the examples themselves `(examples, …)`.
    """
    names = [name for name, _ in plan.splits]
    slots = [_slots(plan, position, name, columns) for position, (name, columns) in enumerate(plan.split_columns())]
    owners = [(source, slots)] if query_source is None else [(source, slots[:1]), (query_source, slots[1:])]
    parts = [part for owner, mine in owners for part in _read(plan, owner, augmentations, mine)]
    return zip(names, slots, parts, strict=True)


def _read(
    plan: EpisodePlan, source: ClassSource, augmentations: Sequence[ClassAugmentation], slots: Sequence[Slots]
) -> list[npt.NDArray[Any]]:
    """The examples of several splits, which are read at once: a small batch takes as long as the calls it makes."""
    used = np.concatenate([each.used for each in slots])
    class_ids = plan.classes.reshape(-1).take(used // plan.examples.shape[2])
    example_ids = plan.examples.reshape(-1).take(used)
    if augmentations:  # without them nothing is divided
        number = len(source.class_sizes)
        _check_classes(plan, number * (1 + len(augmentations)))
        examples = source.gather(class_ids % number, example_ids)
        augment_classes(examples, class_ids // number, augmentations)
    else:
        examples = source.gather(class_ids, example_ids)
    ends = itertools.accumulate(len(each.used) for each in slots)
    return [examples[end - len(each.used) : end] for each, end in zip(slots, ends, strict=True)]


def _check_classes(plan: EpisodePlan, number: int) -> None:
    """Raise `IndexError` for ids of augmented classes that are not there; a source finds those of its own."""
    classes = plan.classes
    if classes.size and not 0 <= classes.min() <= classes.max() < number:
        raise IndexError(f"`plan` must name classes in [0, {number}), got {classes.min()} to {classes.max()}.")


def augment_classes(
    images: npt.NDArray[Any], numbers: npt.NDArray[np.int64], augmentations: Sequence[ClassAugmentation]
) -> None:
    """Replace, in place, every image by itself under augmentation number `numbers` (0: none)."""
    for position, augmentation in enumerate(augmentations, start=1):
        chosen = numbers == position
        if chosen.any():
            images[chosen] = augmentation(images[chosen])


def _slots(plan: EpisodePlan, position: int, name: str, columns: slice) -> Slots:
    count, ways, width = plan.examples.shape
    places = np.arange(count * ways * width).reshape(plan.examples.shape)[:, :, columns]
    if not plan.is_weighted:
        return Slots(places.reshape(-1), (count, ways * places.shape[2]), None)
    used = places[np.arange(places.shape[2]) < plan.counts[:, :, position, None]]
    mask = plan.masks()[name]
    return Slots(used, (count, mask.shape[1]), None if len(used) == mask.size else mask)


def transform_words(plan: EpisodePlan, transforms: Sequence[ImageTransform]) -> list[npt.NDArray[np.uint64]]:
    """`(B·N·n, num_words)` words of each transform, for every place in `plan.examples`."""
    count, ways, width = plan.examples.shape
    lanes = []
    for lane, transform in enumerate(transforms, start=TRANSFORM_LANE):
        number = transform.num_words
        words = philox_words(plan.key, plan.indices, width * ways * number, lane)
        by_class = words.reshape(count, width, ways, number).transpose(0, 2, 1, 3)
        lanes.append(by_class.reshape(count * ways * width, number))
    return lanes
