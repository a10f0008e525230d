"""The protocol of class sources, and the fingerprint that identifies their content."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from metabridge.digests import DIGEST_BYTES, Digest

__all__ = ["ClassIds", "ClassSource", "Digests", "check_source", "content_fingerprint", "digest_classes"]

ClassIds = Sequence[int] | npt.NDArray[np.int64]
Digests = npt.NDArray[np.uint8]


class ClassSource(Protocol):
    """Examples grouped by class.

    The contract: reading is deterministic and has no side effects; the object pickles, so that it can be handed
    to worker processes; `fingerprint` changes when an example, a class or their order changes. Sources that hold
    their examples as arrays have one fingerprint for one content, wherever it is stored: they also have
    `class_digests` `(C, 16)`, one digest per class, which views combine. A source for which reading every example
    would take too long says in its documentation what it hashes instead.
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

        Raises:
            IndexError: for a class that is not there, or an example that its class does not have.
        """

    def select(self, class_ids: ClassIds) -> "ClassSource":
        """A source of these classes alone, in this order, sharing the examples."""


def check_source(source: object, argument: str = "source") -> None:
    """Raise `TypeError` unless it is a class source; `argument` is its name in messages."""
    members = ("class_names", "class_sizes", "example_shape", "dtype", "gather", "select")
    if isinstance(source, type) or not all(hasattr(source, name) for name in members):
        raise TypeError(
            f"`{argument}` must be a class source, got {type(source).__name__}; make one, for example with "
            "ArraySource.from_labels(images, labels) of metabridge.sources."
        )


def digest_classes(
    class_sizes: npt.NDArray[np.int64], dtype: np.dtype[Any], blocks: Iterable[npt.NDArray[Any]]
) -> Digests:
    """One digest per class, from all examples in class order, in blocks of any size.

    Args:
        class_sizes: `(C,)` number of examples of each class.
        dtype: dtype of the examples; they are hashed as little-endian bytes.
        blocks: arrays `(any number, *example_shape)` whose concatenation is all examples in class order.

    Returns:
        `(C, 16)` uint8: the BLAKE2b digest of each class's examples.

    Raises:
        ValueError: if `blocks` hold another number of examples.
    """
    sizes = class_sizes.tolist()
    digests = np.empty((len(sizes), DIGEST_BYTES), dtype=np.uint8)
    class_id, missing, digest = -1, 0, Digest()
    for block in blocks:
        first = 0
        while first < len(block):
            if not missing:
                class_id += 1
                if class_id == len(sizes):
                    raise ValueError(f"`blocks` must hold {sum(sizes)} examples, got more.")
                missing, digest = sizes[class_id], Digest()
            part = block[first : first + missing]
            digest.add_array(part, dtype)
            first += len(part)
            missing -= len(part)
            if not missing:
                digests[class_id] = np.frombuffer(digest.to_bytes(), np.uint8)
    if missing or class_id + 1 != len(sizes):
        raise ValueError(f"`blocks` must hold {sum(sizes)} examples, got fewer.")
    return digests


def content_fingerprint(
    class_names: Iterable[str],
    class_sizes: npt.NDArray[np.int64],
    example_shape: tuple[int, ...],
    dtype: np.dtype[Any],
    class_digests: Digests,
) -> str:
    """The fingerprint of a source, from its table of classes and the digests of their examples.

    Of digests and not of examples, so that the fingerprint of some classes of a large store costs nothing.
    """
    digest = Digest(f"metabridge source\n{tuple(example_shape)}\n{dtype.newbyteorder('<').str}\n")
    for name, size in zip(class_names, class_sizes.tolist(), strict=True):
        digest.add(f"{size} {len(name)} {name}\n")
    return digest.add_array(class_digests).hexadecimal()
