"""WeightedClassSplitter: as many examples as a class's size allows, within limits, never in two splits."""

import itertools
import json
import pickle

import numpy as np
import pytest
from helpers import coded_source, decode, every
from hypothesis import assume, given
from hypothesis import strategies as st

from metabridge import (
    ClassSplitter,
    CombinationMetaDataset,
    EpisodeLoader,
    SegmentationMetaDataset,
    WeightedClassSplitter,
)
from metabridge.episodes.splitters import WeightedSplitter
from metabridge.sources import ArraySource
from metabridge.toy import Sinusoid
from metabridge.transforms import Categorical, RandomHorizontalFlip, Rotation

SIZES = [8, 20, 12, 50, 9]
SOURCE = coded_source(SIZES)


def dataset(source=SOURCE, ways=3, splitter=None, target_transform=None, transform=None, **arguments):
    rule = WeightedClassSplitter(**({"train_weights": 0.25, "test_weights": 0.5} | arguments))
    return CombinationMetaDataset(
        source, ways, dataset_transform=splitter or rule, target_transform=target_transform, transform=transform
    )


# How many


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=20),
    st.lists(st.integers(1, 50), min_size=1, max_size=3),
    st.data(),
)
def test_counts_follow_the_weights_within_the_limits(sizes, percents, data):
    assume(sum(percents) <= 100)
    minima = data.draw(st.lists(st.integers(1, 10), min_size=len(percents), max_size=len(percents)))
    spans = data.draw(st.lists(st.none() | st.integers(0, 20), min_size=len(percents), max_size=len(percents)))
    maxima = [None if span is None else low + span for low, span in zip(minima, spans, strict=True)]
    names = "abc"[: len(percents)]
    splitter = WeightedClassSplitter(
        weights={name: percent / 100 for name, percent in zip(names, percents, strict=True)},
        min_num_samples=dict(zip(names, minima, strict=True)),
        max_num_samples=dict(zip(names, maxima, strict=True)),
    )
    for size, row in zip(sizes, splitter.counts(np.array(sizes)).tolist(), strict=True):
        assert every(count >= low for count, low in zip(row, minima, strict=True))
        if size < sum(minima):
            continue  # refused when the splitter is attached
        assert sum(row) <= size
        assert every(high is None or count <= high for count, high in zip(row, maxima, strict=True))
        wanted = [max(percent * size // 100, low) for percent, low in zip(percents, minima, strict=True)]
        wanted = [want if high is None else min(want, high) for want, high in zip(wanted, maxima, strict=True)]
        assert row == wanted or sum(wanted) > size


@pytest.mark.parametrize(
    ("weights", "limits", "size", "counts"),
    [
        ((0.2, 0.5), {}, 10, [2, 5]),
        ((0.29, 0.57), {}, 100, [29, 57]),  # 0.29 · 100 is 28.999999999999996 in floating point
        ((0.05, 0.5), {}, 10, [1, 5]),
        ((0.2, 0.5), {"max_num_samples": 3}, 100, [3, 3]),
        ((0.2, 0.5), {"max_num_samples": {"test": 30}}, 100, [20, 30]),
        ((0.9, 0.1), {"min_num_samples": 5}, 10, [5, 5]),  # 9 and 5 would not fit
        ((0.1, 0.9), {"min_num_samples": {"train": 4}}, 10, [4, 6]),
        ((0.5, 0.5), {"min_num_samples": {"test": 9}}, 10, [1, 9]),
    ],
)
def test_counts_of_examples(weights, limits, size, counts):
    splitter = WeightedClassSplitter(train_weights=weights[0], test_weights=weights[1], **limits)
    assert splitter.counts(np.array([size])).tolist() == [counts]


# Which


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("index", range(12))
def test_an_episode_holds_the_counts_of_its_classes_and_no_example_twice(shuffle, index):
    made = dataset(shuffle=shuffle, target_transform=Categorical(3), max_num_samples={"test": 11})
    batch = made.episodes([index], seed=1)
    counts = made.splitter.counts(np.array(SIZES))
    taken = {}
    for split, (name, (inputs, targets)) in enumerate(batch.items()):
        classes, examples = decode(inputs[0])
        expected = np.repeat(batch.plan.classes[0], counts[batch.plan.classes[0], split])
        assert classes.tolist() == expected.tolist(), "grouped by class in the task's class order"
        labels = dict(zip(batch.plan.classes[0].tolist(), batch.plan.labels[0].tolist(), strict=True))
        assert targets[0].tolist() == [labels[c] for c in classes.tolist()]
        assert targets.shape == (1, len(expected))
        for class_id, example in zip(classes.tolist(), examples.tolist(), strict=True):
            assert example < SIZES[class_id]
            assert taken.setdefault((class_id, example), name) == name, "in two splits"
        assert len(set(zip(classes.tolist(), examples.tolist(), strict=True))) == len(expected)
    if not shuffle:
        for class_id in batch.plan.classes[0].tolist():
            drawn = sorted(example for c, example in taken if c == class_id)
            assert drawn == list(range(counts[class_id].sum()))


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=6), st.integers(0, 3))
def test_plans_are_pure_functions_of_the_index(indices, seed):
    together = dataset().plan(seed, indices)
    for row, index in enumerate(indices):
        assert dataset().plan(seed, [index]).digest() == together[row : row + 1].digest()
    assert (together.examples >= -1).all()
    for split, columns in enumerate(slice_ for _, slice_ in together.split_columns()):
        used = together.examples[:, :, columns] >= 0
        np.testing.assert_array_equal(used.sum(axis=2), together.counts[:, :, split])


def test_every_example_of_a_large_class_is_drawn():
    plan = dataset().plan(0, range(400))
    for split, columns in enumerate(slice_ for _, slice_ in plan.split_columns()):
        drawn = plan.examples[plan.classes == 3][:, columns]
        assert set(drawn.ravel().tolist()) - {-1} == set(range(50)), split


def test_forced_equality_takes_the_smallest_class_of_the_task():
    made = dataset(force_equal_per_class=True)
    plan = made.plan(0, range(60))
    smallest = np.array(SIZES)[plan.classes].min(axis=1)
    np.testing.assert_array_equal(plan.counts, np.repeat(made.splitter.counts(smallest[:, None]), 3, axis=1))
    assert len(np.unique(plan.counts[:, 0], axis=0)) > 1
    drawn = plan.examples[plan.classes == 3]
    assert drawn.max() == 49, "from all examples of the larger classes"


def test_classes_of_one_size_are_split_as_by_a_class_splitter():
    source = coded_source([20] * 6)
    weighted = dataset(source).episodes(range(9), seed=2)
    plain = dataset(source, splitter=ClassSplitter(num_train_per_class=5, num_test_per_class=10))
    expected = plain.episodes(range(9), seed=2)
    assert weighted.digest() == expected.digest()
    assert dataset(source).fingerprint != plain.fingerprint


# Batches


@pytest.mark.parametrize("transform", [None, RandomHorizontalFlip()])
def test_shorter_episodes_are_padded_behind_their_examples(transform):
    made = dataset(transform=transform, target_transform=Categorical(3))
    together = made.episodes(range(8), seed=3)
    assert list(together.masks) == list(together)
    for name, (inputs, targets) in together.items():
        mask = together.masks[name]
        lengths = [made.episodes([index], seed=3)[name][1].shape[1] for index in range(8)]
        assert len(set(lengths)) > 1
        assert (mask.shape, mask.dtype) == (targets.shape, bool) == ((8, max(lengths)), bool)
        assert inputs.shape[:2] == mask.shape
        for row, length in enumerate(lengths):
            alone = made.episodes([row], seed=3)[name]
            assert mask[row].tolist() == [True] * length + [False] * (max(lengths) - length)
            assert inputs[row, :length].tobytes() == alone[0].tobytes()
            assert targets[row, :length].tolist() == alone[1][0].tolist()
            assert not inputs[row, length:].any()
            assert (targets[row, length:] == -100).all()


def test_masks_of_a_segmentation_are_padded_with_what_is_ignored():
    shown = [np.concatenate([np.full((n, 4, 4, 1), 9, np.uint8), np.ones((n, 4, 4, 1), np.uint8)], -1) for n in (4, 8)]
    made = SegmentationMetaDataset(ArraySource.from_classes(dict(zip("ab", shown, strict=True))))
    made = WeightedClassSplitter(made, train_weights=0.5, test_weights=0.25)
    batch = made.episodes(range(20), seed=0)
    inputs, targets = batch["train"]
    assert targets.shape == (20, 4, 4, 4)
    assert not batch.masks["train"].all()
    assert (targets[~batch.masks["train"]] == 255).all()
    assert not inputs[~batch.masks["train"]].any()
    assert (targets[batch.masks["train"]] == 1).all()


@pytest.mark.parametrize(
    "made",
    [
        dataset(splitter=ClassSplitter(num_train_per_class=2, num_test_per_class=3)),
        dataset(coded_source([20] * 6)),
        Sinusoid(9),
    ],
)
@pytest.mark.parametrize("number", [0, 1, 5])
def test_rectangular_batches_have_masks_of_true_alone(made, number):
    batch = made.episodes(range(number))
    assert set(batch.masks) == set(batch)
    for name, (_, targets) in batch.items():
        assert batch.masks[name].shape == targets.shape[:2]
        assert batch.masks[name].all()


def test_loaders_deliver_padded_batches():
    made = dataset()
    batches = list(EpisodeLoader(made, 4, 3, seed=1))
    assert [batch.digest() for batch in batches] == [made.episodes(range(b, b + 4), seed=1).digest() for b in (0, 4, 8)]
    assert not all(mask.all() for batch in batches for mask in batch.masks.values())


def test_tasks_are_split_too():
    made = dataset()
    assert made[(0, 3, 1)]["train"].targets.tolist() == [0] * 2 + [1] * 12 + [2] * 5
    assert len(made[(0, 3, 1)]["test"]) == 4 + 25 + 10
    assert made[(0, 3, 1)]["test"].inputs.tobytes() == dataset()[(0, 3, 1)]["test"].inputs.tobytes()
    assert len(made.sample_task()) == 2


def test_augmented_and_transformed_classes_keep_their_counts():
    made = CombinationMetaDataset(
        SOURCE,
        3,
        class_augmentations=[Rotation(180)],
        transform=RandomHorizontalFlip(1),
        dataset_transform=WeightedClassSplitter(train_weights=0.25, test_weights=0.5),
    )
    task = made[(8, 0, 5)]["train"]
    assert task.targets.tolist() == [0] * 12 + [1] * 2 + [2] * 2
    class_3 = np.rint(task.inputs[:12, ::-1][:, 0, 0, 0] * 255)
    assert class_3.tolist() == [3] * 12


def test_the_fingerprint_knows_every_argument():
    changes = [
        {},
        {"train_weights": 0.26},
        {"min_num_samples": 2},
        {"max_num_samples": 9},
        {"max_num_samples": {"test": 9}},
        {"force_equal_per_class": True},
        {"shuffle": False},
        {"random_state_seed": 1},
        {"train_weights": None, "support_weights": 0.25},
    ]
    assert len({dataset(**change).fingerprint for change in changes}) == len(changes)
    assert len({dataset(**change).plan(0, range(9)).digest() for change in changes[1:]}) == len(changes) - 1
    description = dataset(max_num_samples=9).description
    assert json.loads(json.dumps(description)) == description


def test_the_digest_of_a_plan_knows_the_counts():
    plan = dataset().plan(0, range(3))
    before = plan.digest()
    plan.counts[0, 0, 0] += 1
    assert plan.digest() != before
    assert pickle.loads(pickle.dumps(plan)).digest() == plan.digest()


# The function


def test_arguments_are_torchmeta_s():
    expected = WeightedSplitter((("train", 1), ("test", 1)), True, 0, (0.2, 0.5), (None, None))
    assert WeightedClassSplitter(train_weights=0.2, test_weights=0.5) == expected
    assert WeightedClassSplitter(weights={"train": 0.2, "test": 0.5}, train_weights=0.9) == expected
    assert WeightedClassSplitter(None, True, 1, None, None, 0.2, 0.5) == expected
    assert WeightedClassSplitter(train_weights=0.2, test_weights=0.5, min_num_samples=None) == expected
    assert list(WeightedClassSplitter(support_weights=0.2, query_weights=0.5).columns(np.array([10]))) == [
        ("support", 2),
        ("query", 5),
    ]
    made = CombinationMetaDataset(SOURCE, 2)
    assert WeightedClassSplitter(made, train_weights=0.5) is made
    assert made.splitter == WeightedClassSplitter(train_weights=0.5)
    assert pickle.loads(pickle.dumps(expected)) == expected


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "a splitter needs at least one split"),
        ({"train_weights": 0.6, "test_weights": 0.5}, ValueError, "`weights` must sum to at most 1, got {'train': 0.6"),
        ({"train_weights": 0}, ValueError, r"`weights\['train'\]` must be a number in \(0, 1\], got 0"),
        ({"train_weights": "1"}, ValueError, r"`weights\['train'\]` must be a number"),
        (
            {"train_weights": 0.2, "support_weights": 0.2},
            ValueError,
            "`train_weights` and `support_weights` name the s",
        ),
        ({"query_weights": 0.2, "test_weights": 0.2}, ValueError, "`test_weights` and `query_weights` name the same"),
        ({"train_weights": 0.2, "min_num_samples": 0}, ValueError, r"\['train'\]` must be a positive integer, got 0"),
        ({"train_weights": 0.2, "min_num_samples": {"test": 2}}, ValueError, "`min_num_samples` must name splits that"),
        (
            {"train_weights": 0.2, "min_num_samples": 3, "max_num_samples": 2},
            ValueError,
            r"`max_num_samples\['train'\]` must be an integer of at least 3, got 2; `min_num_samples\['train'\]` is 3",
        ),
        (
            {"train_weights": 0.2, "max_num_samples": 2.5},
            ValueError,
            r"`max_num_samples\['train'\]` must be a positive integer, got 2\.5",
        ),
    ],
)
def test_impossible_rules_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        WeightedClassSplitter(**arguments)


@pytest.mark.parametrize(("weights", "maxima"), [((0.2,), (None, None)), ((0.2, 0.3, 0.1), (None, None)), ((), ())])
def test_a_rule_needs_a_weight_for_each_split(weights, maxima):
    with pytest.raises(ValueError, match=r"`weights` must be one value for each of 2 splits, got \("):
        WeightedSplitter((("train", 1), ("test", 1)), weights=weights, maxima=maxima)
    with pytest.raises(ValueError, match=r"`maxima` must be one value for each of 2 splits, got \(3,\)"):
        WeightedSplitter((("train", 1), ("test", 1)), weights=(0.2, 0.3), maxima=(3,))


def test_minima_that_a_class_cannot_fill_and_regression_are_refused():
    with pytest.raises(ValueError, match="together need 9 examples of every class, class 'class0' has 8"):
        dataset(min_num_samples={"train": 4, "test": 5})
    with pytest.raises(TypeError, match=r"Sinusoid has tasks of equally many examples, .*; use ClassSplitter"):
        WeightedClassSplitter(Sinusoid(9), train_weights=0.5)


def test_weights_that_make_the_whole_are_allowed():
    for shares in itertools.permutations([0.1, 0.2, 0.7]):
        weights = dict(zip("abc", shares, strict=True))
        assert WeightedClassSplitter(weights=weights).counts(np.array([100])).sum() == 100
