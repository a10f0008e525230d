"""Episode plans: integers that depend on their address alone (contracts C1 and C2)."""

import itertools
import pickle

import numpy as np
import pytest
from helpers import chi_square_excess
from hypothesis import given
from hypothesis import strategies as st

from metabridge.episodes.sampling import ClassTable, SamplingRule
from metabridge.episodes.splitters import Splitter
from metabridge.streams import stream_key

SIZES = np.array([9, 20, 11, 15, 30, 9], dtype=np.int64)
KEY = stream_key("episode/0", 0, "train")


def draw(indices=range(50), shots=2, test_shots=3, ways=4, num_classes=6, shuffle=True, permute=True, key=KEY):
    splits = (("train", shots), ("test", test_shots)) if test_shots else (("train", shots),)
    return SamplingRule(ways, Splitter(splits, shuffle), permute).draw(key, indices, ClassTable(SIZES, num_classes))


CASES = [
    {},
    {"permute": False},
    {"shuffle": False},
    {"ways": 1},
    {"ways": 6},
    {"num_classes": 24, "ways": 11},
    {"shots": 1, "test_shots": 8},
    {"test_shots": 0},
]


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return request.param


# What a plan holds


def test_integers_have_their_shapes_and_ranges(case):
    plan = draw(**case)
    count, ways = plan.classes.shape
    taken = sum(shots for _, shots in plan.splits)
    assert len(plan) == count == 50
    assert plan.labels.shape == (50, ways)
    assert plan.examples.shape == (50, ways, taken)
    for array in (plan.indices, plan.classes, plan.labels, plan.examples):
        assert array.dtype == np.int64
    assert plan.indices.tolist() == list(range(50))
    assert plan.classes.min() >= 0
    assert plan.classes.max() < case.get("num_classes", 6)
    assert (plan.examples >= 0).all()
    assert (plan.examples < SIZES[plan.classes % 6][:, :, None]).all()


def test_classes_of_a_task_are_distinct(case):
    for row in draw(**case).classes:
        assert len(set(row.tolist())) == len(row)


def test_labels_are_a_permutation_or_the_positions(case):
    plan = draw(**case)
    ways = plan.classes.shape[1]
    np.testing.assert_array_equal(np.sort(plan.labels, axis=1), np.broadcast_to(np.arange(ways), (50, ways)))
    permuted = case.get("permute", True) and ways > 1
    assert (plan.labels != np.arange(ways)).any() == permuted


def test_support_and_query_are_disjoint(case):
    plan = draw(**case)
    for row in plan.examples.reshape(-1, plan.examples.shape[-1]):
        assert len(set(row.tolist())) == len(row)


def test_columns_divide_the_examples_split_by_split():
    plan = draw(shots=2, test_shots=5)
    assert plan.split_columns() == [("train", slice(0, 2)), ("test", slice(2, 7))]


# What a plan depends on


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=12), st.data())
def test_an_episode_depends_on_its_index_alone(indices, data):
    whole = draw(indices)
    order = data.draw(st.permutations(range(len(indices))))
    shuffled = draw([indices[i] for i in order])
    for row, i in enumerate(order):
        alone = draw(indices[i])
        assert alone.digest() == whole[i : i + 1].digest() == shuffled[row : row + 1].digest()


def test_classes_and_labels_do_not_depend_on_shots_or_splits():
    reference = draw()
    for shots, test_shots, shuffle in itertools.product((1, 4), (0, 1, 5), (True, False)):
        other = draw(shots=shots, test_shots=test_shots, shuffle=shuffle)
        np.testing.assert_array_equal(other.classes, reference.classes)
        np.testing.assert_array_equal(other.labels, reference.labels)


def test_classes_and_examples_do_not_depend_on_the_permutation_of_labels():
    permuted, plain = draw(permute=True), draw(permute=False)
    np.testing.assert_array_equal(permuted.classes, plain.classes)
    np.testing.assert_array_equal(permuted.examples, plain.examples)


@pytest.mark.parametrize("shots", [1, 3])
def test_enlarging_the_query_set_keeps_the_support_set_and_the_old_queries(shots):
    largest = draw(shots=shots, test_shots=6)
    for test_shots in range(6):
        smaller = draw(shots=shots, test_shots=test_shots)
        np.testing.assert_array_equal(smaller.examples, largest.examples[:, :, : shots + test_shots])


def test_enlarging_the_support_set_only_moves_queries_over():
    for shots in range(1, 6):
        np.testing.assert_array_equal(
            draw(shots=shots, test_shots=7 - shots).examples, draw(shots=1, test_shots=6).examples
        )


def test_without_shuffle_the_first_examples_are_taken():
    plan = draw(shuffle=False)
    np.testing.assert_array_equal(plan.examples, np.broadcast_to(np.arange(5), (50, 4, 5)))


ADDRESSES = list(itertools.product(["episode/0", "episode/1"], [-1, 0, 1, 2**64], ["train", "val", "test"]))


def test_every_address_has_plans_of_its_own():
    plans = [draw(key=stream_key(*address)) for address in ADDRESSES]
    assert len({(plan.classes.tobytes(), plan.examples.tobytes()) for plan in plans}) == len(ADDRESSES)


def test_a_shifted_seed_does_not_shift_the_episodes():
    one, other = (draw(key=stream_key("episode/0", seed, "train")) for seed in (7, 8))
    for shift in range(-5, 6):
        a, b = one.examples[5 + shift : 45 + shift], other.examples[5:45]
        assert (a == b).all(axis=(1, 2)).sum() == 0


# Distributions (fixed addresses, so these cannot fail by chance)


@pytest.fixture(scope="module")
def many():
    return draw(range(20_000))


def test_classes_are_uniform_at_every_position_and_in_pairs(many):
    for position in range(4):
        assert abs(chi_square_excess(np.bincount(many.classes[:, position], minlength=6))) < 4
    pairs = np.unique(many.classes[:, 0] * 6 + many.classes[:, 3], return_counts=True)[1]
    assert len(pairs) == 30
    assert abs(chi_square_excess(pairs)) < 4


def test_labels_are_uniform_and_independent_of_the_class(many):
    permutations = np.unique(many.labels @ [1, 4, 16, 64], return_counts=True)[1]
    assert len(permutations) == 24
    assert abs(chi_square_excess(permutations)) < 4
    joint = np.bincount(many.classes[:, 1] * 4 + many.labels[:, 1], minlength=24)
    assert abs(chi_square_excess(joint)) < 4


@pytest.mark.parametrize("class_id", range(6))
def test_examples_are_uniform_within_each_class(many, class_id):
    chosen = many.examples[many.classes == class_id]
    for position in (0, 4):
        assert abs(chi_square_excess(np.bincount(chosen[:, position], minlength=SIZES[class_id]))) < 4


# The plan as a value


def test_slices_are_the_plans_of_those_episodes(case):
    plan = draw(**case)
    part = plan[10:20]
    assert len(part) == 10
    assert part.digest() == draw(range(10, 20), **case).digest()
    assert plan[:].digest() == plan.digest()


def test_the_digest_knows_every_integer_and_every_name():
    digests = [draw(**case).digest() for case in CASES]
    digests += [draw(range(1, 51)).digest(), draw(key=stream_key("episode/0", 1, "train")).digest()]
    renamed = SamplingRule(4, Splitter((("support", 2), ("test", 3))), True).draw(KEY, range(50), ClassTable(SIZES, 6))
    digests.append(renamed.digest())
    plan = draw()
    for array in (plan.indices, plan.classes, plan.labels, plan.examples):
        array.flat[-1] += 1
        digests.append(plan.digest())
        array.flat[-1] -= 1
    assert len(set(digests)) == len(digests)
    assert plan.digest() == draw().digest() == digests[0]


def test_a_slice_is_of_the_same_family_and_the_digest_does_not_know_it():
    table = ClassTable(SIZES, 6, family="letters")
    plan = SamplingRule(4, Splitter((("train", 2), ("test", 3))), True).draw(KEY, range(50), table)
    assert (plan.family, plan[3:5].family, draw().family) == ("letters", "letters", "")
    assert plan.digest() == draw().digest()


def test_a_plan_pickles_to_an_equal_one(case):
    plan = draw(**case)
    assert pickle.loads(pickle.dumps(plan)).digest() == plan.digest()


def test_comparing_plans_is_no_comparison_of_arrays():
    """`==` on arrays has no single answer, and asking for one raises; plans are compared by `digest()`."""
    plan = draw()
    assert plan in [plan]
    assert plan not in [draw()]
    assert len({plan, plan[:]}) == 2


def test_no_episodes_make_an_empty_plan():
    plan = draw([])
    assert len(plan) == 0
    assert plan.examples.shape == (0, 4, 5)


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([0.5], TypeError, "`indices` must be integers"),
        ([-1], ValueError, "`indices` must be a list of non-negative integers"),
        ([[1, 2]], ValueError, "`indices` must be a list of non-negative integers"),
    ],
)
def test_indices_that_are_no_addresses_are_refused(indices, error, message):
    with pytest.raises(error, match=message):
        draw(indices)
