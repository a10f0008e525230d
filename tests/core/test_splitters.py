"""Splitters: named, disjoint sets of examples of every class, with Torchmeta's function and its argument names."""

import pickle

import numpy as np
import pytest
from helpers import coded_source, decode

from metabridge import ClassSplitter, CombinationMetaDataset, Splitter
from metabridge.toy import Sinusoid

SAME_RULE = [
    {"num_train_per_class": 2, "num_test_per_class": 5},
    {"num_samples_per_class": {"train": 2, "test": 5}},
    {"num_samples_per_class": {"train": 2, "test": 5}, "num_train_per_class": 9},
]


@pytest.mark.parametrize("arguments", SAME_RULE)
def test_arguments_that_say_the_same_make_equal_splitters(arguments):
    splitter = ClassSplitter(**arguments)
    assert splitter == Splitter((("train", 2), ("test", 5)))
    assert splitter.splits == (("train", 2), ("test", 5))
    assert (splitter.examples_per_class, len(splitter)) == (7, 2)


@pytest.mark.parametrize(
    ("arguments", "splits"),
    [
        ({"num_support_per_class": 1, "num_query_per_class": 4}, (("support", 1), ("query", 4))),
        ({"num_train_per_class": 1, "num_query_per_class": 4}, (("train", 1), ("query", 4))),
        ({"num_support_per_class": 1, "num_test_per_class": 4}, (("support", 1), ("test", 4))),
        ({"num_test_per_class": 3}, (("test", 3),)),
        ({"num_samples_per_class": {"a": 1, "b": 2, "c": 3}}, (("a", 1), ("b", 2), ("c", 3))),
    ],
)
def test_sets_have_the_names_they_were_asked_for_by(arguments, splits):
    assert ClassSplitter(**arguments).splits == splits


def test_defaults_are_torchmeta_s():
    splitter = ClassSplitter(num_train_per_class=1)
    assert (splitter.shuffle, splitter.random_state_seed) == (True, 0)
    assert ClassSplitter(None, False, None, 1, 2).splits == (("train", 1), ("test", 2)), "positions count too"


def test_with_a_task_the_meta_dataset_comes_back_with_the_splitter(source):
    dataset = CombinationMetaDataset(source, 3)
    assert ClassSplitter(dataset, num_train_per_class=1, num_test_per_class=2) is dataset
    splitter = ClassSplitter(num_train_per_class=2, num_test_per_class=1)
    assert splitter(dataset) is dataset
    assert dataset.splitter is splitter
    passed = CombinationMetaDataset(source, 3, dataset_transform=splitter)
    assert passed.fingerprint == dataset.fingerprint


def test_a_splitter_is_frozen_hashable_and_pickles():
    splitter = ClassSplitter(num_train_per_class=2, num_test_per_class=5)
    assert pickle.loads(pickle.dumps(splitter)) == splitter
    assert len({splitter, ClassSplitter(num_train_per_class=2, num_test_per_class=5)}) == 1
    with pytest.raises(AttributeError, match="cannot assign to field 'shuffle'"):
        splitter.shuffle = False


def test_without_shuffle_a_class_s_examples_come_in_order(source):
    dataset = ClassSplitter(
        CombinationMetaDataset(source, 3), shuffle=False, num_train_per_class=2, num_test_per_class=3
    )
    batch = dataset.episodes(range(4), seed=0)
    for name, expected in (("train", [0, 1]), ("test", [2, 3, 4])):
        classes, examples = decode(batch[name][0])
        assert examples.reshape(-1, len(expected)).tolist() == [expected] * 12
        np.testing.assert_array_equal(classes.reshape(4, 3, -1)[:, :, 0], batch.plan.classes)


def test_several_sets_divide_a_class_without_overlap():
    source = coded_source([6, 9, 7])
    counts = {"support": 1, "query": 2, "unlabelled": 3}
    dataset = CombinationMetaDataset(source, 2, dataset_transform=ClassSplitter(num_samples_per_class=counts))
    batch = dataset.episodes(range(20), seed=3)
    assert list(batch) == list(counts)
    drawn = [decode(batch[name][0])[1].reshape(20, 2, count) for name, count in counts.items()]
    for per_class in np.concatenate(drawn, axis=2).reshape(40, 6):
        assert len(set(per_class.tolist())) == 6


@pytest.mark.parametrize("dataset", [CombinationMetaDataset(coded_source([9] * 4), 2), Sinusoid(9)])
def test_the_splitter_s_own_seed_makes_other_episodes(dataset):
    digests = set()
    for seed in (0, 1, -1):
        ClassSplitter(dataset, num_train_per_class=1, num_test_per_class=2, random_state_seed=seed)
        digests.add(dataset.episodes(range(5), seed=0).digest())
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "a splitter needs at least one split, got none; pass for example num_train_per_class=5"),
        ({"num_samples_per_class": {}}, ValueError, "a splitter needs at least one split"),
        (
            {"num_train_per_class": 0},
            ValueError,
            r"`num_samples_per_class\['train'\]` must be a positive integer, got 0",
        ),
        ({"num_query_per_class": -2}, ValueError, r"`num_samples_per_class\['query'\]` must be .*, got -2"),
        ({"num_test_per_class": 1.0}, ValueError, "must be a positive integer, got 1.0"),
        ({"num_test_per_class": True}, ValueError, "must be a positive integer, got True"),
        (
            {"num_train_per_class": 1, "num_support_per_class": 1},
            ValueError,
            "`num_train_per_class` and `num_support_per_class` name the same set; pass one of them",
        ),
        (
            {"num_test_per_class": 1, "num_query_per_class": 1},
            ValueError,
            "`num_test_per_class` and `num_query_per_class` name the same set",
        ),
        (
            {"num_train_per_class": 1, "random_state_seed": 0.5},
            TypeError,
            "`random_state_seed` must be an integer, got 0.5",
        ),
    ],
)
def test_impossible_counts_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ClassSplitter(**arguments)


def test_two_sets_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"`splits` must be pairs of distinct names and counts, got \(\('a', "):
        Splitter((("a", 1), ("a", 2)))


WAYS_TO_ATTACH = {
    "dataset_transform": lambda source, rule: CombinationMetaDataset(
        source, 2, dataset_transform=ClassSplitter(**rule)
    ),
    "attach": lambda source, rule: CombinationMetaDataset(source, 2).attach(ClassSplitter(**rule)),
    "ClassSplitter": lambda source, rule: ClassSplitter(CombinationMetaDataset(source, 2), **rule),
}


@pytest.mark.parametrize("attach", WAYS_TO_ATTACH)
def test_too_many_examples_are_refused_when_the_splitter_is_attached(attach):
    source, rule = coded_source([9, 6, 8]), {"num_train_per_class": 3, "num_test_per_class": 4}
    message = "together need 7 examples of every class, class 'class1' has 6; ask for fewer shots"
    with pytest.raises(ValueError, match=message):
        WAYS_TO_ATTACH[attach](source, rule)
    assert WAYS_TO_ATTACH[attach](source, rule | {"num_test_per_class": 3}).splitter.examples_per_class == 6


def test_a_refused_splitter_does_not_replace_the_old_one(source):
    dataset = ClassSplitter(CombinationMetaDataset(source, 2), num_train_per_class=1, num_test_per_class=1)
    before = dataset.splitter
    with pytest.raises(ValueError, match="need 13 examples"):
        ClassSplitter(dataset, num_train_per_class=6, num_test_per_class=7)
    assert dataset.splitter is before


def test_for_regression_a_task_counts_as_one_class():
    dataset = ClassSplitter(Sinusoid(7), num_train_per_class=3, num_test_per_class=4)
    batch = dataset.episodes([0, 1])
    assert [batch[name][0].shape for name in batch] == [(2, 3, 1), (2, 4, 1)]
    with pytest.raises(ValueError, match="need 8 points, `num_samples_per_task` is 7; raise it"):
        ClassSplitter(dataset, num_train_per_class=4, num_test_per_class=4)
