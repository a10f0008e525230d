"""What the core offers to code for Torchmeta: class datasets, single tasks, and messages that show what to write."""

import pickle

import numpy as np
import pytest
from helpers import every

from metabridge import ClassSplitter, CombinationMetaDataset, MetaDataset, Task, WeightedClassSplitter
from metabridge.adaptation.task_maps import check_batch
from metabridge.sources import ArraySource, ClassDatasetSource
from metabridge.toy import Sinusoid

SIZES = (5, 8, 6)


class Classes:
    """Three classes with augmented ones behind them, which nobody may ask for."""

    num_classes = len(SIZES)
    labels = ("ant", "bee", "cow")

    def __len__(self):
        return 4 * self.num_classes

    def __getitem__(self, index):
        assert index < self.num_classes
        images = (np.arange(SIZES[index] * 16, dtype=np.uint8) + 50 * index).reshape(-1, 4, 4)
        return [(image, self.labels[index]) for image in images]


def same_content():
    return ArraySource.from_classes(
        {
            name: np.stack([image for image, _ in Classes()[i]])[..., None]
            for i, name in enumerate(("ant", "bee", "cow"))
        }
    )


# Class datasets


def test_a_class_dataset_has_the_content_of_its_examples():
    source, expected = ClassDatasetSource(Classes()), same_content()
    assert source.class_names == ("ant", "bee", "cow")
    assert source.class_sizes.tolist() == list(SIZES)
    assert source.fingerprint == expected.fingerprint
    for class_id, size in enumerate(SIZES):
        for example in range(size):
            assert np.array_equal(source.gather(class_id, example), expected.gather(class_id, example))


def test_episodes_of_a_class_dataset_are_those_of_its_arrays():
    ours, theirs = (
        ClassSplitter(CombinationMetaDataset(source, 2), num_train_per_class=1, num_test_per_class=3)
        for source in (ClassDatasetSource(Classes()), same_content())
    )
    assert ours.episodes(range(9)).digest() == theirs.episodes(range(9)).digest()


def test_a_class_dataset_is_selected_and_pickled():
    source = ClassDatasetSource(Classes()).select([2, 0])
    again = pickle.loads(pickle.dumps(source))
    assert again.class_names == ("cow", "ant")
    assert np.array_equal(again.gather(0, np.arange(6)), same_content().gather(2, np.arange(6)))


def test_an_identity_stands_for_the_content():
    one, same, other = (ClassDatasetSource(Classes(), identity=words).fingerprint for words in ("a", "a", "b"))
    assert one == same != other


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (iter([1]), TypeError, "`dataset` must have a length and be indexed by numbers, got list_iterator"),
        (
            [5],
            TypeError,
            r"`dataset\[0\]` must have a length .*, got int; for one dataset of .* use Labelled",
        ),
        ([], ValueError, "at least one example in every class, there is no class"),
        ([[np.zeros((4, 4))], []], ValueError, r"at least one example in every class, dataset\[1\] has none"),
        (
            [[(np.full((4, 4), 2.5), 0)]],
            ValueError,
            r"`dataset\[0\]\[0\]`: an image must be uint8, or floats in",
        ),
    ],
)
def test_what_is_no_dataset_of_classes_is_refused(dataset, error, message):
    with pytest.raises(error, match=message):
        ClassDatasetSource(dataset)


def test_a_class_dataset_in_the_place_of_a_source_is_an_error_that_shows_the_line():
    with pytest.raises(TypeError, match=r"got Classes; make one, for example with ClassDatasetSource\(dataset\)"):
        CombinationMetaDataset(Classes(), 2)


# Single tasks


def whole_task(kind):
    if kind == "regression":
        return Sinusoid(10)[3]
    source = ArraySource.from_classes(
        {name: np.arange(i, i + 8, dtype=np.float32)[:, None] for i, name in enumerate("abc")}
    )
    return CombinationMetaDataset(source, 3)[(2, 0, 1)]


SPLITTERS = {
    "fixed": (ClassSplitter(num_train_per_class=2, num_test_per_class=5), (2, 5)),
    "in order": (ClassSplitter(shuffle=False, num_support_per_class=1, num_query_per_class=3), (1, 3)),
    "weighted": (WeightedClassSplitter(train_weights=0.25, test_weights=0.5), None),
}


@pytest.mark.parametrize("name", SPLITTERS)
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_a_splitter_divides_a_task(kind, name):
    task, (splitter, counts) = whole_task(kind), SPLITTERS[name]
    parts = splitter(task)
    assert list(parts) == [split for split, _ in splitter.splits]
    ways = task.num_classes or 1
    per_class = counts or ((2, 4) if kind == "classification" else (2, 5))
    assert [len(part) for part in parts.values()] == [ways * count for count in per_class]
    rows, *drawn = (
        [(*np.ravel(x), *np.ravel(y)) for x, y in zip(each.inputs, each.targets, strict=True)]
        for each in (task, *parts.values())
    )
    drawn = [row for part in drawn for row in part]
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(rows)
    for part, count in zip(parts.values(), per_class, strict=True):
        if kind == "classification":
            assert part.targets.tolist() == np.repeat(task.targets[::8], count).tolist()
    again = splitter(task)
    assert every(np.array_equal(again[split].inputs, part.inputs) for split, part in parts.items())


def test_the_splitters_seed_decides_how_a_task_is_divided():
    task = whole_task("regression")
    found = {
        ClassSplitter(task, num_train_per_class=5, random_state_seed=s)["train"].inputs.tobytes() for s in range(5)
    }
    assert len(found) == 5


def test_a_task_with_too_few_examples_is_not_divided():
    with pytest.raises(ValueError, match=r"need 9 examples of every class, Task.* has 8 of one; ask for fewer shots"):
        ClassSplitter(whole_task("classification"), num_train_per_class=4, num_test_per_class=5)
    empty = Task(0, None, np.zeros((0, 1), np.float32), np.zeros((0, 1), np.float32))
    with pytest.raises(ValueError, match="has 0 of one"):
        ClassSplitter(empty, num_train_per_class=1)


# Messages


def torchvisions(name, **attributes):
    return type(name, (), attributes)()


TRANSFORMS = {
    "prepared": (("Resize", "ToTensor"), r"so without Resize, ToTensor leave `transform` out\."),
    "and more": (
        ("Resize", "ToTensor", "Normalize"),
        r"without Resize, ToTensor write transform=\[Normalize\(…\)\] with those of metabridge.transforms",
    ),
    "others": (("RandomAffine",), r"argument of the torch loader: BatchMetaDataLoader\(dataset, transform=…\)"),
}


@pytest.mark.parametrize("case", TRANSFORMS)
def test_a_transform_of_torchvision_is_an_error_that_shows_the_line(case):
    names, message = TRANSFORMS[case]
    compose = torchvisions("Compose", transforms=[torchvisions(name) for name in names])
    with pytest.raises(TypeError, match=message):
        CombinationMetaDataset(same_content(), 2, transform=compose)


def test_a_meta_dataset_without_its_methods_is_an_error_that_shows_the_ways_out():
    class Mine(MetaDataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return index

    with pytest.raises(TypeError, match=r"Mine must define .*plan.*Combination.*ToyMeta.*torchmeta\.MetaDataset"):
        Mine()


def test_a_batch_of_support_and_query_is_an_error_that_shows_the_names():
    batch = Sinusoid(5, dataset_transform=ClassSplitter(num_support_per_class=2, num_query_per_class=3)).episodes([0])
    with pytest.raises(ValueError, match=r"'train' and 'test', got 'support' and 'query'; .*`num_train_per_class`"):
        check_batch(batch, (np.ndarray,), "metabridge")
