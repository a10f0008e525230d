"""Counter-based random streams: every number metabridge draws is a pure function of words written down here.

A stream is addressed by a *key* (what is drawn, from which seed, for which meta-split) and an *index* (which
episode). The generator is Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3",
SC'11), computed here for many indices at once and equal bit for bit to `numpy.random.Philox`'s raw output.
NumPy promises that raw output across versions but not what `numpy.random.Generator` makes of it, so bounded
integers, choices without replacement, uniforms and normals are made from raw words here.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from metabridge.portable import normal_quantile

__all__ = [
    "SCHEME_VERSION",
    "bounded_integers",
    "choose_without_replacement",
    "normals",
    "philox_words",
    "stream_key",
    "uniforms",
]

SCHEME_VERSION = 1
"""Version of the stream scheme. It is part of every key; episodes never change while it stays the same."""

Words = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]

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
        seed: any Python integer, negative ones included.
        meta_split: `"train"`, `"val"` or `"test"`.

    Raises:
        TypeError: if `seed` is not an integer (a `bool` or a `float` would silently alias another seed).
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"`seed` must be an integer, got {seed!r} ({type(seed).__name__}); pass for example seed=0.")
    text = f"metabridge/{SCHEME_VERSION}\npurpose={purpose}\nseed={int(seed)}\nmeta_split={meta_split}\n"
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
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
    return _multiply_high(a, b), a * b


def _multiply_high(a: Words, b: np.uint64 | Words) -> Words:
    a_low, a_high = a & _LOW32, a >> _SHIFT32
    b_low, b_high = b & _LOW32, b >> _SHIFT32
    middle = a_high * b_low + ((a_low * b_low) >> _SHIFT32)
    carry = a_low * b_high + (middle & _LOW32)
    return a_high * b_high + (middle >> _SHIFT32) + (carry >> _SHIFT32)


def bounded_integers(words: Words, bound: npt.ArrayLike) -> Integers:
    """Integers in `[0, bound)` by 64-bit multiply-high: `floor(word * bound / 2**64)`.

    Some values are more likely than others by at most `bound / 2**64`: below 1e-12 for ten million classes,
    which no experiment can see, and no rejection loop can ever make the stream's length depend on its values.

    Args:
        words: raw words of any shape.
        bound: positive integers, broadcast against `words`.
    """
    bounds = np.asarray(bound, dtype=np.int64)
    if (bounds <= 0).any():
        raise ValueError(f"`bound` must be positive, got {bounds.min()}; there is nothing to draw from.")
    return _multiply_high(words, bounds.astype(np.uint64)).astype(np.int64)


def choose_without_replacement(words: Words, population: npt.ArrayLike) -> Integers:
    """Ordered choices of k out of n without replacement, one per row: the first k steps of Fisher–Yates.

    Neither time nor memory grows with n: where n is much larger than k, the at most k entries that were swapped
    are remembered instead of an array of n. Choosing fewer is a prefix of choosing more.

    Args:
        words: `(..., k)` raw words, one per chosen element.
        population: n for every row, broadcast against `words.shape[:-1]`.

    Returns:
        `(..., k)` int64, distinct along the last axis, each in `[0, n)`.

    Raises:
        ValueError: if k > n somewhere.
    """
    *rows, k = words.shape
    count = math.prod(rows)
    sizes = np.broadcast_to(np.asarray(population, dtype=np.int64), rows)
    if k and sizes.size and sizes.min() < k:
        raise ValueError(f"cannot choose {k} out of {sizes.min()} without replacement; choose fewer.")
    steps = words.reshape(count, k).T  # a step is a row, so that every operation below runs along memory
    sizes = sizes.reshape(count)
    pick = _choose_from_pool if sizes.size and sizes.max() <= 8 * k else _choose_from_swaps
    return np.ascontiguousarray(pick(steps, sizes).T).reshape(words.shape)


def _choose_from_pool(steps: Words, sizes: Integers) -> Integers:
    """`(k, count)`: the swaps made in an array of all n elements; k operations."""
    pool = np.tile(np.arange(sizes.max()), (len(sizes), 1))
    rows = np.arange(len(sizes))
    chosen = np.empty(steps.shape, dtype=np.int64)
    for j, words in enumerate(steps):
        target = j + bounded_integers(words, sizes - j)
        chosen[j] = pool[rows, target]
        pool[rows, target] = pool[:, j]
    return chosen


def _choose_from_swaps(steps: Words, sizes: Integers) -> Integers:
    """The same for n much larger than k: only the k swapped elements are remembered, and searched."""
    chosen = np.empty(steps.shape, dtype=np.int64)  # what position `target[j]` held before step j
    target = np.empty(steps.shape, dtype=np.int64)  # the position that step j swapped with position j
    moved = np.empty(steps.shape, dtype=np.int64)  # what step j moved there: the former content of position j
    for j, words in enumerate(steps):
        target[j] = j + bounded_integers(words, sizes - j)
        chosen[j], moved[j] = target[j], j
        for i in range(j):  # a later swap overrides an earlier one
            np.copyto(chosen[j], moved[i], where=target[i] == target[j])
            np.copyto(moved[j], moved[i], where=target[i] == j)
    return chosen


def uniforms(words: Words, low: float = 0.0, high: float = 1.0) -> npt.NDArray[np.float64]:
    """Uniform float64 in `[low, high)` from the upper 53 bits of each word."""
    values = low + (high - low) * ((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)
    return np.minimum(values, np.nextafter(high, low))  # the sum may have been rounded up to `high`


def normals(words: Words) -> npt.NDArray[np.float64]:
    """Standard normal float64, by inversion of the distribution function at the centre of each 2**-52 cell.

    Cells of 2**-53 have no centre in float64 above one half: the last one would be rounded to probability 1.
    """
    return normal_quantile(((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)
