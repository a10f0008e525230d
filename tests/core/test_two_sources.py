"""Support from one source, query from another with the same classes."""

import pickle

import numpy as np
import pytest
from helpers import coded_source, decode
from hypothesis import given
from hypothesis import strategies as st

from metabridge import ClassSplitter, CombinationMetaDataset, WeightedClassSplitter
from metabridge.sources import ArraySource, rename_classes
from metabridge.transforms import Categorical, RandomHorizontalFlip, Rotation

PHOTOS = coded_source([6, 3, 8, 5, 4])
RULE = ClassSplitter(num_train_per_class=3, num_test_per_class=5)


def inverted(source):
    """The same classes with other examples: pixel (0, 0) is 100 + class id, and (0, 1) 100 + example id."""
    examples = source.examples.copy()
    examples[:, 0, :2] += 100
    return ArraySource(examples, source.class_starts, source.class_sizes, source.class_names)


SKETCHES = inverted(coded_source([5, 9, 7, 6, 12, 9])).select([4, 2, 5, 0, 3, 1])
"""In another order, and with a class more."""


def dataset(rule=RULE, source=PHOTOS, query_source=SKETCHES, ways=3, **arguments):
    return CombinationMetaDataset(source, ways, dataset_transform=rule, query_source=query_source, **arguments)


def test_support_and_query_come_from_their_sources_with_the_same_classes():
    batch = dataset(target_transform=Categorical(3)).episodes(range(50), seed=1)
    for split, shots, offset in (("train", 3, 0), ("test", 5, 100)):
        classes, examples = decode(batch[split][0])
        np.testing.assert_array_equal(classes - offset, np.repeat(batch.plan.classes, shots, axis=1))
        np.testing.assert_array_equal(batch[split][1], np.repeat(batch.plan.labels, shots, axis=1))
        sizes = PHOTOS.class_sizes if split == "train" else np.array([5, 9, 7, 6, 12])
        assert (examples - offset < sizes[classes - offset]).all()
        assert (examples >= offset).all()
        for row in examples.reshape(-1, shots):
            assert len(set(row.tolist())) == shots
    drawn = [set(batch.plan.examples[batch.plan.classes == 4][:, 3:].ravel().tolist())]
    assert drawn == [set(range(12))], "all of the larger class is drawn from"


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=5), st.integers(0, 3))
def test_episodes_of_two_sources_are_pure_functions(indices, seed):
    together = dataset().episodes(indices, seed)
    for row, index in enumerate(indices):
        alone = pickle.loads(pickle.dumps(dataset())).episodes([index], seed)
        assert alone.plan.digest() == together.plan[row : row + 1].digest()
        for split in together:
            np.testing.assert_array_equal(alone[split][0][0], together[split][0][row])


def test_classes_labels_and_support_are_those_of_the_source_alone():
    alone = CombinationMetaDataset(PHOTOS, 3, dataset_transform=ClassSplitter(num_train_per_class=3))
    one, two = alone.plan(0, range(20)), dataset().plan(0, range(20))
    np.testing.assert_array_equal(one.classes, two.classes)
    np.testing.assert_array_equal(one.examples, two.examples[:, :, :3])


def test_more_than_two_splits_share_the_query_source():
    rule = ClassSplitter(num_samples_per_class={"support": 2, "query": 2, "unlabelled": 3})
    batch = dataset(rule).episodes(range(10))
    assert (decode(batch["support"][0])[0] < 100).all()
    both = [decode(batch[name][0])[1].reshape(10, 3, -1) for name in ("query", "unlabelled")]
    assert (np.concatenate(both, axis=2) >= 100).all()
    for row in np.concatenate(both, axis=2).reshape(30, 5):
        assert len(set(row.tolist())) == 5


def test_tasks_order_augmentation_and_transforms_work_as_with_one_source():
    ordered = dataset(ClassSplitter(shuffle=False, num_train_per_class=2, num_test_per_class=3))
    task = ordered[(3, 0, 4)]
    assert decode(task["train"].inputs)[1].tolist() == [0, 1] * 3
    assert decode(task["test"].inputs)[0].tolist() == [103] * 3 + [100] * 3 + [104] * 3
    assert decode(task["test"].inputs)[1].tolist() == [100, 101, 102] * 3
    turned = dataset(class_augmentations=[Rotation(90)], transform=RandomHorizontalFlip(1))
    plain = dataset(class_augmentations=[Rotation(90)])
    for split, inputs in ((split, turned.episodes(range(8))[split][0]) for split in ("train", "test")):
        np.testing.assert_array_equal(inputs, plain.episodes(range(8))[split][0][..., ::-1, :])
    class_7 = plain[(7, 1, 2)]["test"].inputs[0]
    assert (np.rint(np.rot90(class_7, -1)[0, 0] * 255) == 102).all()


def test_the_fingerprint_knows_both_sources():
    changed = SKETCHES.examples.copy()
    changed[0] ^= 1
    table = SKETCHES.class_starts, SKETCHES.class_sizes, SKETCHES.class_names
    prints = [
        dataset().fingerprint,
        dataset(source=PHOTOS.select([1, 0, 2, 3, 4])).fingerprint,
        dataset(query_source=inverted(SKETCHES)).fingerprint,
        CombinationMetaDataset(PHOTOS, 3, dataset_transform=ClassSplitter(num_train_per_class=3)).fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    others = SKETCHES.select([0, 1, 3, 4, 5])
    assert dataset(query_source=others).fingerprint == prints[0], "a class that is not used does not count"
    assert dataset(query_source=ArraySource(SKETCHES.examples, *table)).fingerprint == prints[0]
    assert dataset(query_source=ArraySource(changed, *table)).fingerprint != prints[0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: dataset(query_source=SKETCHES.select([0, 1, 2])),
            ValueError,
            "must have every class of `source`, 3 of 5 are missing: 'class0', 'class1', 'class3'; rename_classes",
        ),
        (
            lambda: dataset(query_source=rename_classes(SKETCHES, "{}!".format)),
            ValueError,
            "5 of 5 are missing: 'class0', 'class1', 'class2', 'class3', 'class4'; ",
        ),
        (lambda: dataset(query_source=PHOTOS), ValueError, "`query_source` must be another source than `source`"),
        (
            lambda: dataset(query_source=coded_source([9] * 5, side=5)),
            ValueError,
            r"same shape and dtype as `source`, got \(5, 5, 1\) uint8 and \(6, 6, 1\) uint8; open both",
        ),
        (
            lambda: dataset(ClassSplitter(num_train_per_class=4, num_test_per_class=1)),
            ValueError,
            "the split 'train' needs 4 examples of every class, class 'class1' has 3",
        ),
        (
            lambda: dataset(ClassSplitter(num_train_per_class=1, num_test_per_class=6)),
            ValueError,
            "in `query_source` the others need 6 examples of every class, class 'class0' has 5",
        ),
        (
            lambda: dataset(ClassSplitter(num_train_per_class=1)),
            ValueError,
            "must fix the numbers of a support and a q",
        ),
        (
            lambda: dataset(WeightedClassSplitter(train_weights=0.2, test_weights=0.3)),
            ValueError,
            "must fix the numbers of a support and a query set, got WeightedSplitter",
        ),
        (lambda: dataset(None).episodes([0]), ValueError, "with `query_source` a task needs a support and a query set"),
        (lambda: dataset(None)[(0, 1, 2)], ValueError, "with `query_source` a task needs a support and a query set"),
    ],
)
def test_sources_that_do_not_go_together_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
