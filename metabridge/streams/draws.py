"""Draws from raw random words: bounded integers, choices without replacement, uniforms and normals.

Every function is a pure function of the words of `metabridge.streams.philox`, so its values never change across
versions of NumPy.
"""

import math

import numpy as np
import numpy.typing as npt

from metabridge.checks import check_number, require
from metabridge.streams.philox import Words, multiply_high
from metabridge.streams.portable import normal_quantile

__all__ = ["bounded_integers", "choose_without_replacement", "normals", "uniforms"]

Integers = npt.NDArray[np.int64]


def _check_words(words: object) -> None:
    fits = isinstance(words, np.ndarray) and words.dtype == np.uint64
    require(fits, "words", "an array of uint64", words, "take it from philox_words")


def bounded_integers(words: Words, bound: npt.ArrayLike) -> Integers:
    """Integers in `[0, bound)` by 64-bit multiply-high: `floor(word * bound / 2**64)`.

    Some values are more likely than others by at most `bound / 2**64`: below 1e-12 for ten million classes,
    which no experiment can see, and no rejection loop can ever make the stream's length depend on its values.

    Args:
        words: raw words of any shape.
        bound: positive integers, broadcast against `words`.
    """
    _check_words(words)
    bounds = np.asarray(bound, dtype=np.int64)
    if (bounds <= 0).any():
        raise ValueError(f"`bound` must be positive, got {bounds.min()}; there is nothing to draw from.")
    return multiply_high(words, bounds.astype(np.uint64)).astype(np.int64)


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
    _check_words(words)
    require(words.ndim > 0, "words", "of shape (..., k)", words)
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
    _check_words(words)
    check_number(low, "low")
    check_number(high, "high")
    values = low + (high - low) * ((words >> np.uint64(11)).astype(np.float64) * 2.0**-53)
    return np.minimum(values, np.nextafter(high, low))  # the sum may have been rounded up to `high`


def normals(words: Words) -> npt.NDArray[np.float64]:
    """Standard normal float64, by inversion of the distribution function at the centre of each 2**-52 cell.

    Cells of 2**-53 have no centre in float64 above one half: the last one would be rounded to probability 1.
    """
    _check_words(words)
    return normal_quantile(((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52)
