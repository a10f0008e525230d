"""The base of sources that read an example when it is asked for."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from metabridge.sources.base import ClassIds, content_fingerprint, digest_classes
from metabridge.sources.tables import (
    NO_CLASS,
    check_classes,
    check_distinct,
    check_layout,
    check_positions,
    integers_of,
    positions_of,
)

__all__ = ["LazySource", "UnequalExamplesError"]


class UnequalExamplesError(ValueError):
    """An example has another shape or dtype than the first one."""


class LazySource(ABC):
    """Examples of class *c* are rows `class_starts[c] : class_starts[c] + class_sizes[c]` of something readable.

    Args:
        class_sizes: `(C,)` number of rows of each class, class by class.
        class_names: C distinct names.
        example_shape: shape of every example.
        dtype: `uint8` or a floating dtype.

    Raises:
        TypeError: if `dtype` is neither.
        ValueError: if there is no class, one is empty, or a name appears twice.
    """

    def __init__(
        self,
        class_sizes: npt.NDArray[np.int64],
        class_names: Sequence[str],
        example_shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self.class_sizes = integers_of(class_sizes, "class_sizes")
        self.class_starts = np.cumsum(self.class_sizes) - self.class_sizes
        self.class_names = tuple(class_names)
        self.example_shape = tuple(example_shape)
        self.dtype = np.dtype(dtype)
        check_classes(self.class_names, self.class_sizes, self.dtype)
        check_layout(self.example_shape, self.dtype)

    @abstractmethod
    def read(self, row: int) -> npt.NDArray[Any]:
        """The example at this row of the table."""

    @abstractmethod
    def where(self, row: int) -> str:
        """Words that say which example a row is, for an error."""

    def gather(self, class_ids: npt.NDArray[np.int64], example_ids: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Read the examples one after another; see `ClassSource.gather`.

        Raises:
            IndexError: for a class that is not there, or an example that its class does not have.
            UnequalExamplesError: if an example has another shape or dtype than the first one.
        """
        check_positions(self.class_sizes, class_ids, example_ids)
        rows = self.class_starts[class_ids] + example_ids
        examples = np.empty((rows.size, *self.example_shape), dtype=self.dtype)
        for position, row in enumerate(rows.ravel().tolist()):
            example = self.read(row)
            if example.shape != self.example_shape or example.dtype != self.dtype:
                raise UnequalExamplesError(
                    f"all examples must have one shape and dtype, the first has {self.example_shape} {self.dtype}, "
                    f"{self.where(row)} has {example.shape} {example.dtype}; for images pass resize=(height, width) "
                    "and mode='RGB'."
                )
            examples[position] = example
        return examples.reshape(*rows.shape, *self.example_shape)

    def select(self, class_ids: ClassIds) -> Self:
        """A source of these classes alone, in this order, over the same examples."""
        ids = positions_of(class_ids, len(self))
        if not len(ids):
            raise ValueError(NO_CLASS)
        selection = copy.copy(self)
        selection.__dict__.pop("fingerprint", None)
        selection.class_starts, selection.class_sizes = self.class_starts[ids], self.class_sizes[ids]
        selection.class_names = tuple(self.class_names[i] for i in ids.tolist())
        check_distinct(selection.class_names)
        return selection

    @cached_property
    def fingerprint(self) -> str:
        """The result of `compute_fingerprint`, computed once."""
        return self.compute_fingerprint()

    def compute_fingerprint(self) -> str:
        """Hexadecimal BLAKE2b of names, sizes, shape, dtype and every example: reads them all."""
        blocks = (self.gather(np.array([c]), np.array([e])) for c, e in self._positions())
        digests = digest_classes(self.class_sizes, self.dtype, blocks)
        return content_fingerprint(self.class_names, self.class_sizes, self.example_shape, self.dtype, digests)

    def _positions(self) -> Iterator[tuple[int, int]]:
        """Class id and example id of every example."""
        return ((c, e) for c, size in enumerate(self.class_sizes.tolist()) for e in range(size))

    def __len__(self) -> int:
        return len(self.class_sizes)

    def __repr__(self) -> str:
        total = int(self.class_sizes.sum())
        return (
            f"{type(self).__name__}({len(self)} classes, {total} examples of shape {self.example_shape}, {self.dtype})"
        )
