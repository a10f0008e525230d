"""The non-episodic view of a meta-dataset: all its examples with one label per class, for supervised pre-training."""

import operator
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from metabridge.episodes.batches import augment_classes, to_float32
from metabridge.episodes.metadatasets import CombinationMetaDataset
from metabridge.episodes.plans import TRANSFORM_LANE
from metabridge.episodes.segmentation import SegmentationMetaDataset
from metabridge.streams import philox_words, stream_key
from metabridge.transforms.images import transform_images

__all__ = ["SupervisedView"]

Integers = npt.NDArray[np.int64]

_EPOCHS = 2**32


def _shared_integer(value: int) -> Any:
    """An integer that processes started from now on share with this one."""
    from multiprocessing.sharedctypes import RawValue  # 0.02 s to import

    return RawValue("q", value)


class SupervisedView:
    """All examples of a meta-split, class after class; the label of an example is its class id.

    `view[i]` is a pair `(input, label)`: `input` float32 of shape `dataset.input_shape` (images `(H, W, C)` in
    [0, 1]), `label` an int in [0, `num_classes`). Augmented classes are classes like any other, with the ids they
    have in the meta-dataset. A map-style dataset for `torch.utils.data.DataLoader`, which fetches whole batches
    by one gather; with NumPy, `view.gather(indices)`.

    Image transforms of the meta-dataset apply, drawn for every example and epoch from the stream of `seed`: set
    `epoch` before each pass, or augmented images repeat. Worker processes see it too, also persistent ones of a
    `DataLoader`: the number is in memory that a view shares with those that were started with it. A copy or a pickle
    of a view has an epoch of its own. Torchmeta's `NonEpisodicWrapper` is wrong by one example
    at every class boundary; and labels of Torchmeta are names, here they are integers.

    >>> import numpy as np
    >>> from metabridge import CombinationMetaDataset
    >>> from metabridge.sources import ArraySource
    >>> letters = {name: np.full((4 + i, 8, 8, 1), i, np.uint8) for i, name in enumerate("abc")}
    >>> view = SupervisedView(CombinationMetaDataset(ArraySource.from_classes(letters), num_classes_per_task=2))
    >>> len(view), [view[i][1] for i in (0, 3, 4, 8, 9, -1)]
    (15, [0, 0, 1, 1, 2, 2])
    >>> inputs, labels = view.gather([0, 4, 9])
    >>> inputs.shape, labels.tolist()
    ((3, 8, 8, 1), [0, 1, 2])

    Args:
        dataset: a meta-dataset over classes; its splitter has no effect. With a `query_source`, a class has the
            examples of `source` and then those of `query_source`.
        seed: seed of the image transforms.

    Raises:
        TypeError: if `dataset` has no classes or has masks for targets, or `seed` is no integer.
    """

    def __init__(self, dataset: CombinationMetaDataset, seed: int = 0) -> None:
        if not isinstance(dataset, CombinationMetaDataset):
            raise TypeError(f"`dataset` must be a CombinationMetaDataset, got {dataset!r}; it has no classes to learn.")
        if isinstance(dataset, SegmentationMetaDataset):
            raise TypeError(
                f"`dataset` must have class ids as targets, {dataset!r} has masks; read examples from `dataset.source`."
            )
        self.dataset = dataset
        self._epoch = _shared_integer(0)
        self._key = stream_key("supervised", seed, dataset.meta_split)
        self._support_sizes = np.asarray(dataset.source.class_sizes)
        sizes = self._support_sizes
        if dataset.query_source is not None:
            sizes = sizes + dataset.query_source.class_sizes
        self._ends = np.cumsum(np.tile(sizes, dataset.num_classes // len(sizes)))

    @property
    def epoch(self) -> int:
        """Number of the pass, from which image transforms are drawn.

        Raises:
            TypeError: if set to what is no integer.
            ValueError: if set to one outside [0, 2**32).
        """
        return self._epoch.value

    @epoch.setter
    def epoch(self, value: SupportsIndex) -> None:
        number = operator.index(value)
        if not 0 <= number < _EPOCHS:
            raise ValueError(f"`epoch` must lie in [0, 2**32), got {number}.")
        self._epoch.value = number

    @property
    def num_classes(self) -> int:
        """Number of labels, augmented classes included."""
        return len(self._ends)

    @property
    def labels(self) -> Integers:
        """`(len(view),)` int64: the label of every example, without reading one."""
        return np.repeat(np.arange(self.num_classes), np.diff(self._ends, prepend=0))

    def class_name(self, label: int) -> str:
        """Name of a class, with its augmentation."""
        return self.dataset.class_name(label)

    def locate(self, indices: npt.ArrayLike) -> tuple[Integers, Integers]:
        """Class ids `(n,)` and example ids within their classes `(n,)` of the examples at `indices` `(n,)`.

        Raises:
            IndexError: if an index is not in [−len(view), len(view)).
            TypeError: if `indices` are no integers.
        """
        found = np.asarray(indices)
        if found.size and found.dtype.kind not in "iu":
            raise TypeError(f"`indices` must be integers, got {found.dtype}.")
        found = found.astype(np.int64)
        length = len(self)
        outside = (found < -length) | (found >= length)
        if outside.any():
            raise IndexError(f"`indices` must lie in [-{length}, {length}), got {found[outside].flat[0]}.")
        found = np.where(found < 0, found + length, found)
        classes = np.searchsorted(self._ends, found, side="right")
        return classes, found - np.where(classes > 0, self._ends[classes - 1], 0)

    def gather(self, indices: npt.ArrayLike) -> tuple[npt.NDArray[np.float32], Integers]:
        """Inputs `(n, *dataset.input_shape)` float32 and labels `(n,)` int64 of the examples at `indices` `(n,)`.

        Raises:
            IndexError: if an index is not in [−len(view), len(view)).
            TypeError: if `indices` are no integers.
        """
        labels, examples = self.locate(np.atleast_1d(np.asarray(indices)))
        number = len(self._support_sizes)
        images = self._read(labels % number, examples)
        augment_classes(images, labels // number, self.dataset.class_augmentations)
        starts = np.where(labels > 0, self._ends[labels - 1], 0)
        positions = starts + examples + self.epoch * len(self)
        transforms = self.dataset.transforms
        words = [
            philox_words(self._key, positions, transform.num_words, lane)
            for lane, transform in enumerate(transforms, start=TRANSFORM_LANE)
        ]
        return transform_images(transforms, to_float32(images), words), labels

    def _read(self, classes: Integers, examples: Integers) -> npt.NDArray[Any]:
        """The stored examples, which may be in two sources."""
        source, query_source = self.dataset.source, self.dataset.query_source
        if query_source is None:
            return source.gather(classes, examples)
        images = np.empty((len(classes), *source.example_shape), dtype=source.dtype)
        own = examples < self._support_sizes[classes]
        images[own] = source.gather(classes[own], examples[own])
        images[~own] = query_source.gather(classes[~own], (examples - self._support_sizes[classes])[~own])
        return images

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: SupportsIndex) -> tuple[npt.NDArray[np.float32], int]:
        inputs, labels = self.gather([operator.index(index)])
        return inputs[0], int(labels[0])

    def __getitems__(self, indices: list[int]) -> list[tuple[npt.NDArray[np.float32], int]]:
        """The pairs at `indices`, for `torch.utils.data.DataLoader`, which calls this when it makes a batch."""
        inputs, labels = self.gather(indices)
        return list(zip(inputs, labels.tolist(), strict=True))

    def __getstate__(self) -> dict[str, Any]:
        """Shared memory goes along to a process that is being started, and nowhere else."""
        from multiprocessing.context import get_spawning_popen

        return self.__dict__ | ({} if get_spawning_popen() else {"_epoch": self.epoch})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self._epoch, int):
            self._epoch = _shared_integer(self._epoch)

    def __repr__(self) -> str:
        return f"SupervisedView({len(self)} examples of {self.num_classes} classes, meta-{self.dataset.meta_split})"
