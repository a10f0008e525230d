"""Streams: raw words are NumPy's Philox, and everything made of them is exact integer arithmetic (contract C2)."""

import itertools
import math

import numpy as np
import pytest
from helpers import chi_square_excess, every
from hypothesis import given
from hypothesis import strategies as st

from metabridge.streams import (
    SCHEME_VERSION,
    bounded_integers,
    choose_without_replacement,
    normals,
    philox_words,
    stream_key,
    uniforms,
)
from metabridge.streams import philox as streams

WORD = st.integers(0, 2**64 - 1)
EDGE_INDICES = [0, 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1]
SEEDS = [-(2**70), -1, 0, 1, 2, 10, 2**32, 2**63, 2**64, 2**64 + 1]
PURPOSES = ["episode/0", "episode/1", "task/0/1", "toy/Sinusoid", "parameter/head.weight"]


def numpy_words(key, index, num_words, lane):
    counter = np.array([0, lane, index, 0], dtype=np.uint64)
    return np.random.Philox(key=np.array(key, dtype=np.uint64), counter=counter).random_raw(num_words)


def words(count, per_row, key=(1, 2)):
    return philox_words(key, np.arange(count), per_row)


def word_array(values):
    return np.array(values, dtype=np.uint64)


# Raw words

PUBLISHED = [
    ("0" * 64, "0" * 32, "16554d9eca36314cdb20fe9d672d0fdcd7e772cee186176b7e68b68aec7ba23b"),
    ("f" * 64, "f" * 32, "87b092c3013fe90b438c3c67be8d02249cc7d7c69cd777b6a09caebf594f0ba0"),
    (
        "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89",
        "452821e638d01377be5466cf34e90c6c",
        "a528f45403e61d9538c72dbd566e9788a5a1610e72fd18b557bd43b5e52b7fe6",
    ),
]
"""Counter, key and output of the known-answer test of the generator's authors (Random123, philox4x64-10)."""


def from_hex(text):
    return [int(text[i : i + 16], 16) for i in range(0, len(text), 16)]


@pytest.mark.parametrize(("counter", "key", "output"), PUBLISHED)
def test_one_block_is_the_authors_published_one(counter, key, output):
    block = streams._philox_rounds([word_array([word]) for word in from_hex(counter)], tuple(from_hex(key)))
    assert [int(word[0]) for word in block] == from_hex(output)


@given(st.tuples(WORD, WORD), st.lists(WORD, min_size=1, max_size=5), st.integers(1, 19), WORD)
def test_raw_words_equal_numpy_philox(key, indices, num_words, lane):
    rows = philox_words(key, word_array(indices), num_words, lane)
    assert rows.dtype == np.uint64
    for row, index in zip(rows, indices, strict=True):
        np.testing.assert_array_equal(row, numpy_words(key, index, num_words, lane))


@pytest.mark.parametrize("lane", [0, 1, 2**64 - 1])
@pytest.mark.parametrize("index", EDGE_INDICES)
def test_raw_words_equal_numpy_philox_at_the_edges(index, lane):
    key = stream_key("episode/0", 0, "train")
    np.testing.assert_array_equal(philox_words(key, [index], 9, lane)[0], numpy_words(key, index, 9, lane))


def test_the_comparison_with_numpy_can_fail():
    for wrong in (numpy_words((1, 3), 5, 4, 0), numpy_words((1, 2), 6, 4, 0), numpy_words((1, 2), 5, 4, 1)):
        assert (philox_words((1, 2), [5], 4)[0] != wrong).any()


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=6), st.integers(1, 12), st.integers(1, 12))
def test_a_row_depends_on_its_own_index_and_fewer_words_are_a_prefix(indices, fewer, more):
    fewer, more = sorted((fewer, more))
    together = philox_words((3, 4), indices, more)
    for row, index in zip(together, indices, strict=True):
        np.testing.assert_array_equal(philox_words((3, 4), index, fewer)[0], row[:fewer])


def test_neighbouring_indices_lanes_and_words_share_no_value():
    seen = np.concatenate([philox_words((5, 6), np.arange(50), 16, lane).ravel() for lane in range(4)])
    assert len(np.unique(seen)) == seen.size


def test_no_indices_give_no_rows():
    assert philox_words((0, 0), [], 7).shape == (0, 7)
    assert philox_words((0, 0), range(3), 0).shape == (3, 0)


@pytest.mark.parametrize("indices", [0.5, [1.0, 2.0], [True], ["1"], [2**64]])
def test_an_index_that_is_no_integer_is_refused(indices):
    with pytest.raises(TypeError, match=r"`indices` must be integers below 2\*\*64, got"):
        philox_words((0, 0), indices, 4)


@pytest.mark.parametrize("indices", [-1, [3, -2], [[1, 2]]])
def test_a_negative_index_is_refused(indices):
    with pytest.raises(ValueError, match=r"`indices` must be a list of non-negative integers, got "):
        philox_words((0, 0), indices, 4)


# Keys


def test_no_two_addresses_share_a_key():
    addresses = list(itertools.product(PURPOSES, SEEDS, ["train", "val", "test"]))
    assert len({stream_key(*address) for address in addresses}) == len(addresses)


def test_a_seed_is_not_a_shift_of_the_index():
    """Adding seed and index, as other libraries do, would make (seed 7, index 5) and (seed 8, index 4) one stream."""
    rows = [philox_words(stream_key("episode/0", seed, "train"), np.arange(64), 4) for seed in range(8)]
    everything = np.concatenate(rows).ravel()
    assert len(np.unique(everything)) == everything.size


def test_a_key_is_128_bits_of_its_text():
    assert every(0 <= word < 2**64 for word in stream_key("episode/0", 0, "train"))
    assert stream_key("episode/0", np.int32(-3), "val") == stream_key("episode/0", -3, "val")
    assert SCHEME_VERSION == 1, "another scheme needs new golden digests and a line in the changelog"


@pytest.mark.parametrize("seed", [True, False, 1.0, "1", None, np.bool_(True), np.float64(2)])
def test_a_seed_that_is_no_integer_is_refused(seed):
    with pytest.raises(TypeError, match=r"`seed` must be an integer, got .*; pass for example seed=0"):
        stream_key("episode/0", seed, "train")


# Bounded integers


@given(st.lists(st.tuples(WORD, st.integers(1, 2**63 - 1)), min_size=1, max_size=20))
def test_bounded_integers_are_the_high_half_of_the_product(pairs):
    drawn = bounded_integers(word_array([word for word, _ in pairs]), [bound for _, bound in pairs])
    assert drawn.dtype == np.int64
    assert drawn.tolist() == [word * bound >> 64 for word, bound in pairs]


@pytest.mark.parametrize("bound", [1, 2, 3, 5, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 1])
def test_bounded_integers_reach_both_ends_and_keep_order(bound):
    edges = sorted({*range(3), 2**32 - 1, 2**32, 2**63 - 1, 2**63, *range(2**64 - 3, 2**64)})
    drawn = bounded_integers(word_array(edges), bound).tolist()
    assert drawn == [word * bound >> 64 for word in edges] == sorted(drawn)
    assert (drawn[0], drawn[-1]) == (0, bound - 1)


def test_bounded_integers_broadcast():
    drawn = bounded_integers(words(4, 3), np.array([[1], [2], [3], [4]]))
    assert drawn.shape == (4, 3)
    assert (drawn < [[1], [2], [3], [4]]).all()


@pytest.mark.parametrize("bound", [0, -1, [5, 0]])
def test_a_bound_below_one_is_refused(bound):
    with pytest.raises(ValueError, match=r"`bound` must be positive, got (0|-1); there is nothing to draw"):
        bounded_integers(words(2, 2), bound)


# Choices without replacement


def slow_choice(row, population):
    """Fisher–Yates as the textbook writes it: a deck of n cards and Python integers."""
    deck, chosen = list(range(population)), []
    for j, word in enumerate(map(int, row)):
        target = j + (word * (population - j) >> 64)
        deck[j], deck[target] = deck[target], deck[j]
        chosen.append(deck[j])
    return chosen


@st.composite
def choices(draw):
    k = draw(st.integers(0, 12))
    rows = draw(st.lists(st.lists(WORD, min_size=k, max_size=k), min_size=1, max_size=4))
    return word_array(rows).reshape(len(rows), k), [max(1, k) + draw(st.integers(0, 8)) for _ in rows]


@given(choices())
def test_choices_are_those_of_a_shuffled_deck(case):
    rows, populations = case
    chosen = choose_without_replacement(rows, populations)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == [slow_choice(row, n) for row, n in zip(rows, populations, strict=True)]


AROUND_POWERS = sorted({2**k + d for k in range(1, 8) for d in (-1, 0, 1)})


@pytest.mark.parametrize("n", AROUND_POWERS)
def test_choosing_all_is_a_permutation(n):
    chosen = choose_without_replacement(words(16, n, key=(n, 0)), n)
    np.testing.assert_array_equal(np.sort(chosen, axis=1), np.broadcast_to(np.arange(n), (16, n)))
    assert chosen.tolist() == [slow_choice(row, n) for row in words(16, n, key=(n, 0))]


@pytest.mark.parametrize("n", range(1, 7))
def test_every_permutation_comes_from_exactly_one_sequence_of_swaps(n):
    steps = itertools.product(*(range(n - j) for j in range(n)))
    rows = word_array([[-(-(target << 64) // (n - j)) for j, target in enumerate(step)] for step in steps])
    permutations = {tuple(row) for row in choose_without_replacement(rows, n).tolist()}
    assert len(rows) == len(permutations) == math.factorial(n)


@pytest.mark.parametrize(("n", "k"), [(5, 3), (20, 20), (1000, 17), (2**62, 9)])
def test_choosing_fewer_is_a_prefix(n, k):
    rows = words(8, k)
    everything = choose_without_replacement(rows, n)
    for fewer in range(k + 1):
        np.testing.assert_array_equal(choose_without_replacement(rows[:, :fewer], n), everything[:, :fewer])


def test_choices_keep_leading_axes_and_broadcast_the_population():
    rows = words(6, 4).reshape(2, 3, 4)
    chosen = choose_without_replacement(rows, [5, 6, 7])
    for i, j in itertools.product(range(2), range(3)):
        assert chosen[i, j].tolist() == slow_choice(rows[i, j], 5 + j)
    assert choose_without_replacement(rows[0, 0], 5).shape == (4,)
    assert choose_without_replacement(rows[:0], 2).shape == (0, 3, 4), "no rows ask for nothing"


@pytest.mark.parametrize(("population", "found"), [(3, 3), ([9, 2, 9], 2), (0, 0)])
def test_too_small_a_population_is_refused(population, found):
    with pytest.raises(ValueError, match=f"cannot choose 4 out of {found} without replacement; choose fewer"):
        choose_without_replacement(words(3, 4), population)


# Distributions (the words are fixed, so these cannot fail by chance)


@pytest.mark.parametrize("bound", [2, 7, 64, 100])
def test_bounded_integers_are_uniform(bound):
    counts = np.bincount(bounded_integers(words(5_000, 16), bound).ravel(), minlength=bound)
    assert abs(chi_square_excess(counts)) < 4


@pytest.mark.parametrize(("n", "k"), [(4, 4), (7, 3), (30, 2)])
def test_ordered_choices_are_uniform(n, k):
    chosen = choose_without_replacement(words(60_000, k, key=(7, 8)), n)
    _, counts = np.unique(chosen @ (n ** np.arange(k)), return_counts=True)
    assert len(counts) == math.perm(n, k)
    assert abs(chi_square_excess(counts)) < 4


def test_uniforms_are_uniform_and_stay_below_the_upper_end():
    drawn = uniforms(words(5_000, 16), -2.0, 3.0)
    assert drawn.dtype == np.float64
    assert abs(chi_square_excess(np.histogram(drawn, 50, (-2.0, 3.0))[0])) < 4
    for low, high in ((0.0, 1.0), (1.0, 2.0), (-5.0, 5.0), (0.1, 5.0), (-1e-3, 1e-3), (1e9, 1e9 + 1)):
        ends = uniforms(word_array([0, 2**64 - 1]), low, high)
        assert low == ends[0] < ends[1] < high


def test_uniforms_are_the_upper_53_bits():
    assert uniforms(word_array([0, 2**11 - 1, 2**11, 2**63])).tolist() == [0.0, 0.0, 2.0**-53, 0.5]


def test_normals_have_moments_and_quantiles_of_the_standard_normal():
    drawn = normals(words(50_000, 8)).ravel()
    error = 1 / math.sqrt(drawn.size)
    for power, moment, spread in ((1, 0, 1), (2, 1, math.sqrt(2)), (3, 0, math.sqrt(15)), (4, 3, math.sqrt(96))):
        assert abs((drawn**power).mean() - moment) < 4 * spread * error
    inside = [np.mean(np.abs(drawn) < k) for k in (1, 2, 3)]
    np.testing.assert_allclose(inside, [math.erf(k / math.sqrt(2)) for k in (1, 2, 3)], atol=2 * error)


def test_normals_are_symmetric_to_the_last_bit_and_finite():
    some = np.concatenate([words(100, 8).ravel(), word_array([0, 1, 2**12, 2**63 - 1])])
    np.testing.assert_array_equal(normals(some), -normals(~some))
    low, high = normals(word_array([0, 2**64 - 1]))
    assert low == -high
    assert 8.2 < high < 8.3
