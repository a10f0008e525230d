"""All digests of the library: 128 bits of BLAKE2b (Saarinen, Aumasson 2015, RFC 7693)."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["DIGEST_BYTES", "Digest"]

DIGEST_BYTES = 16


class Digest:
    """A digest that grows by what is added to it, in that order.

    >>> Digest("shape (2,)\\n").add_array(np.arange(2), "<i8").hexadecimal()
    'd3ffd797779f74c25c8e994f186c7b94'

    Args:
        start: text or bytes to begin with.
    """

    def __init__(self, start: str | bytes = b"") -> None:
        self._state = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self.add(start)

    def add(self, content: str | bytes) -> "Digest":
        """Add bytes, or text as UTF-8."""
        self._state.update(content.encode() if isinstance(content, str) else content)
        return self

    def add_array(self, array: npt.NDArray[Any], dtype: npt.DTypeLike | None = None) -> "Digest":
        """Add an array's elements in C order, as little-endian bytes of `dtype`, by default its own."""
        little = np.dtype(array.dtype if dtype is None else dtype).newbyteorder("<")
        self._state.update(np.ascontiguousarray(array, dtype=little).data)
        return self

    def add_texts(self, texts: Iterable[str]) -> "Digest":
        """Add texts, each after its length, so that no two lists of texts add the same."""
        for text in texts:
            self.add(f"{len(text)} {text}\n")
        return self

    def to_bytes(self) -> bytes:
        """The digest of what was added so far, 16 bytes."""
        return self._state.digest()

    def hexadecimal(self) -> str:
        """The digest of what was added so far, 32 digits."""
        return self._state.hexdigest()
