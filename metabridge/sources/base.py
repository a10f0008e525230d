"""What metabridge asks of a store of examples, and the fingerprint that identifies its content."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["ClassIds", "ClassSource", "content_fingerprint"]

ClassIds = Sequence[int] | npt.NDArray[np.int64]


class ClassSource(Protocol):
    """Examples grouped by class.

    The contract: reading is deterministic and has no side effects; the object pickles, so that it can be handed
    to worker processes; `fingerprint` changes when an example, a class or their order changes. Sources that hold
    their examples as arrays have one fingerprint for one content, wherever it is stored; a source for which
    reading every example would take too long says in its documentation what it hashes instead.
    """

    @property
    def class_names(self) -> Sequence[str]:
        """Name of each class; its position is the class id."""

    @property
    def class_sizes(self) -> npt.NDArray[np.int64]:
        """`(C,)` int64: number of examples of each class."""

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example: `(H, W, channels)` for images, `(features,)` for vectors."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """`uint8` for images, a floating dtype for features."""

    @property
    def fingerprint(self) -> str:
        """Hexadecimal BLAKE2b of names, sizes, shape, dtype and every example, or of what stands for them."""

    def gather(self, class_ids: npt.NDArray[np.int64], example_ids: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Copy the examples at `(class_ids, example_ids)`, two arrays that broadcast against each other.

        Returns:
            `(*broadcast shape, *example_shape)` in `dtype`, owned by the caller.
        """

    def select(self, class_ids: ClassIds) -> "ClassSource":
        """A source of these classes alone, in this order, sharing the examples."""


def content_fingerprint(
    class_names: Iterable[str],
    class_sizes: npt.NDArray[np.int64],
    example_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    blocks: Iterable[npt.NDArray[Any]],
) -> str:
    """The fingerprint of a source, from its table of classes and its examples in class order, block by block."""
    state = hashlib.blake2b(digest_size=16)
    little = dtype.newbyteorder("<")
    state.update(f"metabridge source\n{tuple(example_shape)}\n{little.str}\n".encode())
    for name, size in zip(class_names, class_sizes.tolist(), strict=True):
        state.update(f"{size} {name}\n".encode())
    for block in blocks:
        state.update(np.ascontiguousarray(block, dtype=little).data)
    return state.hexdigest()
