"""Counter-based random streams: every number metabridge draws is a pure function of words written down here.

A stream is addressed by a *key* (what is drawn, from which seed, for which meta-split) and an *index* (which
episode). The generator is Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3",
SC'11), computed here for many indices at once and equal bit for bit to `numpy.random.Philox`'s raw output.
NumPy promises that raw output across versions but not what `numpy.random.Generator` makes of it, so
`metabridge.streams.draws` makes bounded integers, choices without replacement, uniforms and normals from raw words.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from metabridge.checks import check_count, check_seed
from metabridge.digests import Digest

__all__ = ["SCHEME_VERSION", "Words", "multiply_high", "philox_words", "stream_key"]

SCHEME_VERSION = 1
"""Version of the stream scheme. It is part of every key; episodes never change while it stays the same."""

Words = npt.NDArray[np.uint64]

_ROUNDS = 10
_MULTIPLIERS = (np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157))
_WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_MASK64 = (1 << 64) - 1
_LOW32 = np.uint64(0xFFFFFFFF)
_SHIFT32 = np.uint64(32)


def stream_key(purpose: str, seed: int, meta_split: str) -> tuple[int, int]:
    """Two 64-bit key words from what is drawn, the user's seed and the meta-split.

    The key is 128 bits of BLAKE2b over a canonical text, so no two (purpose, seed, meta-split) share a stream,
    which seeds that are added together do.

    Args:
        purpose: what the numbers decide, for example `"episode"`.
        seed: any integer of at most 1024 bits, negative ones included.
        meta_split: `"train"`, `"val"` or `"test"`.

    Raises:
        TypeError: if `seed` is not an integer (a `bool` or a `float` would silently alias another seed).
        ValueError: if it has more than 1024 bits.
    """
    seed = check_seed(seed, "seed", "pass for example seed=0")
    text = f"metabridge/{SCHEME_VERSION}\npurpose={purpose}\nseed={seed}\nmeta_split={meta_split}\n"
    digest = Digest(text).to_bytes()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")


def philox_words(key: tuple[int, int], indices: npt.ArrayLike, num_words: int, lane: int = 0) -> Words:
    """The first `num_words` raw words of the stream `key` at each index.

    Row *r* equals `numpy.random.Philox(key=key, counter=[0, lane, indices[r], 0]).random_raw(num_words)`.
    Index and lane have counter words of their own, so neighbouring indices share nothing.

    Args:
        key: two words from `stream_key`.
        indices: `(B,)` non-negative integers below 2**64.
        num_words: words per index.
        lane: what the words are for, where one episode needs several independent sequences.

    Returns:
        `(B, num_words)` uint64.

    Raises:
        TypeError: if `indices` are not integers (a rounded float would silently alias another index).
        ValueError: if an index is negative, or `indices` have more than one axis.
    """
    check_count(num_words, "num_words", least=0)
    check_count(lane, "lane", least=0)
    rows = _index_rows(indices)
    blocks = -(-num_words // 4)
    counter0 = np.broadcast_to(np.arange(1, blocks + 1, dtype=np.uint64), (len(rows), blocks))
    counter2 = np.broadcast_to(rows[:, None], (len(rows), blocks))
    counter1 = np.full((len(rows), blocks), lane, dtype=np.uint64)
    counter3 = np.zeros((len(rows), blocks), dtype=np.uint64)
    words = np.stack(_philox_rounds((counter0, counter1, counter2, counter3), key), axis=-1)
    return words.reshape(len(rows), blocks * 4)[:, :num_words]


def _index_rows(indices: npt.ArrayLike) -> Words:
    rows = np.atleast_1d(np.asarray(indices))
    if rows.size and rows.dtype.kind not in "iu":
        raise TypeError(f"`indices` must be integers below 2**64, got {rows.dtype} {rows.flat[0]!r}.")
    if rows.ndim != 1 or (rows.size and rows.min() < 0):
        raise ValueError(f"`indices` must be a list of non-negative integers, got {np.asarray(indices).tolist()!r}.")
    return rows.astype(np.uint64)


def _philox_rounds(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> Sequence[Words]:
    x0, x1, x2, x3 = counter
    key0, key1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply_wide(x0, _MULTIPLIERS[0])
        high1, low1 = _multiply_wide(x2, _MULTIPLIERS[1])
        x0, x1, x2, x3 = high1 ^ x1 ^ np.uint64(key0), low1, high0 ^ x3 ^ np.uint64(key1), low0
        key0, key1 = (key0 + _WEYL[0]) & _MASK64, (key1 + _WEYL[1]) & _MASK64
    return x0, x1, x2, x3


def _multiply_wide(a: Words, b: np.uint64 | Words) -> tuple[Words, Words]:
    """High and low 64-bit halves of the 128-bit product (NumPy has only the low one)."""
    return multiply_high(a, b), a * b


def multiply_high(a: Words, b: np.uint64 | Words) -> Words:
    """High 64 bits of the 128-bit products of two arrays of words."""
    a_low, a_high = a & _LOW32, a >> _SHIFT32
    b_low, b_high = b & _LOW32, b >> _SHIFT32
    middle = a_high * b_low + ((a_low * b_low) >> _SHIFT32)
    carry = a_low * b_high + (middle & _LOW32)
    return a_high * b_high + (middle >> _SHIFT32) + (carry >> _SHIFT32)
