"""A class source over one array, in memory or memory-mapped."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from metabridge.sources.base import ClassIds, Digests, content_fingerprint, digest_classes
from metabridge.sources.tables import (
    check_classes,
    check_layout,
    check_positions,
    group_labels,
    integers_of,
    positions_of,
)

__all__ = ["ArraySource"]

_HASH_BLOCK_BYTES = 1 << 24


class ArraySource:
    """Examples of class *c* are rows `class_starts[c] : class_starts[c] + class_sizes[c]` of `examples`.

    Build one with `ArraySource.from_classes` or `ArraySource.from_labels`:

    >>> import numpy as np
    >>> images = {"circle": np.zeros((20, 28, 28, 1), np.uint8), "square": np.ones((20, 28, 28, 1), np.uint8)}
    >>> ArraySource.from_classes(images)
    ArraySource(2 classes, 40 examples of shape (28, 28, 1), uint8)

    Args:
        examples: `(total, H, W, channels)` uint8 images, or `(total, …)` floating-point features.
        class_starts: `(C,)` first row of each class.
        class_sizes: `(C,)` number of rows of each class.
        class_names: C distinct names.

    Raises:
        TypeError: if `examples` is neither uint8 nor floating point, or the table does not hold integers.
        ValueError: if the table does not fit the array, a class is empty, or a name appears twice.
    """

    def __init__(
        self,
        examples: npt.NDArray[Any],
        class_starts: npt.ArrayLike,
        class_sizes: npt.ArrayLike,
        class_names: Sequence[str],
    ) -> None:
        self.examples = np.asarray(examples)
        self.class_starts = integers_of(class_starts, "class_starts")
        self.class_sizes = integers_of(class_sizes, "class_sizes")
        self.class_names = tuple(class_names)
        self._check()

    def _check(self) -> None:
        check_classes(self.class_names, self.class_sizes, self.examples.dtype)
        check_layout(self.example_shape, self.dtype)
        if len(self.class_starts) != len(self.class_sizes):
            raise ValueError(
                "`class_starts` and `class_sizes` must have one entry per class, got "
                f"{len(self.class_starts)} and {len(self.class_sizes)}."
            )
        if self.class_starts.min() < 0 or (self.class_starts + self.class_sizes).max() > len(self.examples):
            raise ValueError(f"the class table points outside the {len(self.examples)} rows of `examples`.")

    @classmethod
    def from_classes(cls, classes: Mapping[str, npt.ArrayLike]) -> Self:
        """From a mapping class name → `(n, …)` array of its examples, in the mapping's order."""
        if not isinstance(classes, Mapping):
            raise TypeError(
                f"`classes` must map class names to arrays, got {type(classes).__name__}; write {{'cat': images, …}}, "
                "or use ArraySource.from_labels."
            )
        arrays = {name: np.asarray(array) for name, array in classes.items()}
        if not arrays:
            raise ValueError("`classes` must hold at least one class, got an empty mapping.")
        first, example = next(iter(arrays.items()))
        for name, array in arrays.items():
            if array.dtype != example.dtype or array.shape[1:] != example.shape[1:]:
                raise ValueError(
                    f"all classes must have examples of one shape and dtype, {first!r} has {example.shape[1:]} "
                    f"{example.dtype}, {name!r} has {array.shape[1:]} {array.dtype}; convert them first."
                )
        sizes = np.array([len(array) for array in arrays.values()], dtype=np.int64)
        return cls(np.concatenate(list(arrays.values())), np.cumsum(sizes) - sizes, sizes, tuple(arrays))

    @classmethod
    def from_labels(
        cls, examples: npt.NDArray[Any], labels: npt.ArrayLike, class_names: Sequence[str] | None = None
    ) -> Self:
        """From `(total, …)` examples and `(total,)` labels, in any order.

        Classes are ordered by label. `class_names` are the names of labels 0, 1, …; without it a class is named
        by its label. Examples that come class by class are shared with the caller, others are copied.
        """
        names, sizes, order = group_labels(labels, class_names)
        total = int(sizes.sum())
        if total != len(examples):
            raise ValueError(f"`labels` must have one entry per example, got {total} for {len(examples)} examples.")
        grouped = examples if order is None else examples[order]
        return cls(grouped, np.cumsum(sizes) - sizes, sizes, names)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.examples.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        """dtype of the examples."""
        return self.examples.dtype

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal BLAKE2b of names, sizes, shape, dtype and every example."""
        return self._fingerprint_with(self.class_digests)

    @cached_property
    def class_digests(self) -> Digests:
        """`(C, 16)` uint8: one digest per class, of its examples."""
        return self._digest_classes()

    def _digest_classes(self) -> Digests:
        return digest_classes(self.class_sizes, self.dtype, self._blocks(range(len(self))))

    def _fingerprint_with(self, class_digests: Digests) -> str:
        return content_fingerprint(self.class_names, self.class_sizes, self.example_shape, self.dtype, class_digests)

    def _blocks(self, class_ids: Iterable[int]) -> Iterator[npt.NDArray[Any]]:
        """The examples of these classes in their order, a bounded number of bytes at a time."""
        row_bytes = max(1, self.examples[:1].nbytes)
        rows = max(1, _HASH_BLOCK_BYTES // row_bytes)
        for class_id in class_ids:
            start, size = int(self.class_starts[class_id]), int(self.class_sizes[class_id])
            for first in range(start, start + size, rows):
                yield self.examples[first : min(first + rows, start + size)]

    def gather(self, class_ids: npt.NDArray[np.int64], example_ids: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """One indexed copy; see `ClassSource.gather`."""
        check_positions(self.class_sizes, class_ids, example_ids)
        self._admit(class_ids)
        return self.examples.take(self.class_starts.take(class_ids) + example_ids, axis=0)

    def _admit(self, class_ids: npt.NDArray[np.int64]) -> None:
        """Raise an error for damaged examples of these classes, where that can be known."""

    def select(self, class_ids: ClassIds) -> "ArraySource":
        """A source of these classes alone, in this order, over the same array."""
        ids = positions_of(class_ids, len(self))
        names = tuple(self.class_names[i] for i in ids)
        return ArraySource(self.examples, self.class_starts[ids], self.class_sizes[ids], names)

    def __len__(self) -> int:
        return len(self.class_sizes)

    def __repr__(self) -> str:
        total = int(self.class_sizes.sum())
        return (
            f"{type(self).__name__}({len(self)} classes, {total} examples of shape {self.example_shape}, {self.dtype})"
        )
