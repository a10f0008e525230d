"""Episode batches: the arrays of a batch of episodes, framework-neutral."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from metabridge.digests import Digest
from metabridge.episodes.plans import TRANSFORM_LANE, EpisodePlan
from metabridge.sources.base import ClassSource
from metabridge.streams import philox_words
from metabridge.transforms.classes import ClassAugmentation
from metabridge.transforms.images import ImageTransform, transform_images

__all__ = [
    "WHOLE",
    "EpisodeBatch",
    "Split",
    "arrays_digest",
    "augment_classes",
    "by_episode",
    "gather_batch",
    "read_splits",
    "to_float32",
    "transform_words",
]

S = TypeVar("S", bound=np.generic)

Split = tuple[npt.NDArray[np.float32], npt.NDArray[Any]]

WHOLE = "all"
"""Name of the only split of a meta-dataset without a splitter."""


class EpisodeBatch(Mapping[str, Split]):
    """A batch of B episodes: a mapping from split name to `(inputs, targets)`.

    For N-way classification `inputs` is `(B, N·k, H, W, channels)` float32 in [0, 1] (`(B, N·k, features)` for
    vectors) and `targets` is `(B, N·k)` int64 in [0, N), both grouped by class in the task's class order.
    For regression both are `(B, k, 1)` float32; for segmentation `targets` are masks `(B, k, H, W)` int64. With
    a `WeightedClassSplitter` the number of examples is `(B, n)` where classes differ in how many they
    have: `targets` tell which.

    Attributes:
        plan: the integers that decided these arrays.
    """

    def __init__(self, plan: EpisodePlan, splits: Mapping[str, Split]) -> None:
        self.plan = plan
        self._splits = dict(splits)

    def __getitem__(self, name: str) -> Split:
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
    """Model inputs of stored examples: uint8 images become `x / 255` computed in float32, features are cast."""
    if examples.dtype != np.uint8:
        return examples.astype(np.float32)
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
        ValueError: if the episodes differ in their number of examples.
    """
    words = transform_words(plan, transforms)
    splits = {}
    for name, rows, examples in read_splits(plan, source, augmentations, query_source):
        inputs = transform_images(transforms, to_float32(examples), [each[rows] for each in words])
        labels = plan.labels.reshape(-1)[rows // plan.examples.shape[2]]
        splits[name] = (by_episode(inputs, plan, name), by_episode(labels, plan, name))
    return EpisodeBatch(plan, splits)


def read_splits(
    plan: EpisodePlan,
    source: ClassSource,
    augmentations: Sequence[ClassAugmentation] = (),
    query_source: ClassSource | None = None,
) -> Iterator[tuple[str, npt.NDArray[np.int64], npt.NDArray[Any]]]:
    """The stored examples of each split, augmented; arguments and errors as for `gather_batch`.

    Yields:
        The split's name; `(n,)` the places of its examples in `plan.examples`, flattened; the examples `(n, …)`.
    """
    number = len(source.class_sizes)
    for position, (name, columns) in enumerate(plan.split_columns()):
        rows = _used_slots(plan, position, name, columns)
        class_ids = plan.classes.reshape(-1)[rows // plan.examples.shape[2]]
        owner = source if position == 0 or query_source is None else query_source
        # Without augmentations nothing is divided, which saves a single episode a tenth of its time.
        examples = owner.gather(class_ids % number if augmentations else class_ids, plan.examples.reshape(-1)[rows])
        if augmentations:
            augment_classes(examples, class_ids // number, augmentations)
        yield name, rows, examples


def by_episode(array: npt.NDArray[S], plan: EpisodePlan, name: str) -> npt.NDArray[S]:
    """`(B·k, …)` → `(B, k, …)` for the split `name`."""
    count, ways, _ = plan.examples.shape
    each = len(array) // count if count else ways * dict(plan.splits)[name]
    return array.reshape(count, each, *array.shape[1:])


def augment_classes(
    images: npt.NDArray[Any], numbers: npt.NDArray[np.int64], augmentations: Sequence[ClassAugmentation]
) -> None:
    """Replace, in place, every image by itself under augmentation number `numbers` (0: none)."""
    for position, augmentation in enumerate(augmentations, start=1):
        chosen = numbers == position
        if chosen.any():
            images[chosen] = augmentation(images[chosen])


def _used_slots(plan: EpisodePlan, position: int, name: str, columns: slice) -> npt.NDArray[np.int64]:
    """The places of a split's examples in `plan.examples`, flattened, episode by episode and class by class."""
    count, ways, width = plan.examples.shape
    slots = np.arange(count * ways * width).reshape(plan.examples.shape)[:, :, columns]
    if plan.counts is None:
        return slots.reshape(-1)
    counts = plan.counts[:, :, position]
    totals = counts.sum(axis=1)
    if len(totals) and totals.min() != totals.max():
        raise ValueError(
            f"the episodes of a batch must have equally many examples, in split {name!r} they have {totals.min()} to "
            f"{totals.max()}, since their classes differ in size; load them with batch_size=1, or take the same number "
            "of every class with ClassSplitter."
        )
    return slots[np.arange(slots.shape[2]) < counts[:, :, None]]


def transform_words(plan: EpisodePlan, transforms: Sequence[ImageTransform]) -> list[npt.NDArray[np.uint64]]:
    """`(B·N·n, num_words)` words of each transform, for every place in `plan.examples`."""
    count, ways, width = plan.examples.shape
    found = []
    for lane, transform in enumerate(transforms, start=TRANSFORM_LANE):
        each = transform.num_words
        words = philox_words(plan.key, plan.indices, width * ways * each, lane)
        found.append(words.reshape(count, width, ways, each).transpose(0, 2, 1, 3).reshape(count * ways * width, each))
    return found
