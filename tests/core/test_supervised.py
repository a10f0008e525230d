"""The non-episodic view: every example once, under the label of its class, at every class boundary."""

import copy
import multiprocessing
import pickle

import numpy as np
import pytest
from helpers import coded_source, decode
from hypothesis import given
from hypothesis import strategies as st

from metabridge import ClassSplitter, CombinationMetaDataset, SupervisedView
from metabridge.sources import ArraySource
from metabridge.toy import Sinusoid
from metabridge.transforms import HorizontalFlip, RandomCrop, RandomHorizontalFlip, Rotation

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=7)


def view_of(sizes, query_sizes=None, seed=0, **arguments):
    query = None if query_sizes is None else coded_source(query_sizes)
    return SupervisedView(CombinationMetaDataset(coded_source(sizes), 1, query_source=query, **arguments), seed)


def by_hand(dataset):
    """Every example with its label, one after another, without any index arithmetic."""
    found = []
    for number, augmentation in enumerate([lambda image: image, *dataset.class_augmentations]):
        for class_id in range(len(dataset.source.class_sizes)):
            for source in (dataset.source, dataset.query_source):
                for example in range(source.class_sizes[class_id]) if source is not None else ():
                    image = augmentation(source.gather(np.array(class_id), np.array(example)))
                    found.append((image / np.float32(255), class_id + number * len(dataset.source.class_sizes)))
    return found


AUGMENTATIONS = st.sampled_from([None, [Rotation(90)], [Rotation([180, 270]), HorizontalFlip()]])


@given(SIZES, AUGMENTATIONS, st.booleans())
def test_every_example_is_there_once_in_the_order_of_labels(sizes, augmentations, with_query):
    view = view_of(sizes, [size % 3 + 1 for size in sizes] if with_query else None, class_augmentations=augmentations)
    expected = by_hand(view.dataset)
    assert len(view) == len(expected)
    assert view.labels.tolist() == [label for _, label in expected]
    assert view.num_classes == view.dataset.num_classes == expected[-1][1] + 1
    for i, (image, label) in enumerate(expected):
        found = view[i]
        np.testing.assert_array_equal(found[0], image)
        assert found[1] == label
        assert (found[0].dtype, type(found[1])) == (np.float32, int)
    with pytest.raises(IndexError, match=rf"must lie in \[-{len(view)}, {len(view)}\), got {len(view)}"):
        view[len(view)]


@given(SIZES, st.data())
def test_a_gather_is_single_accesses(sizes, data):
    view = view_of(sizes, class_augmentations=[Rotation(90)])
    indices = data.draw(st.lists(st.integers(-len(view), len(view) - 1), max_size=12))
    inputs, labels = view.gather(indices)
    assert inputs.shape == (len(indices), 6, 6, 1)
    assert (inputs.dtype, labels.dtype) == (np.float32, np.int64)
    for index, image, label in zip(indices, inputs, labels, strict=True):
        np.testing.assert_array_equal(image, view[index][0])
        assert label == view[index][1] == view.labels[index]
    together = view.__getitems__(indices)
    assert [label for _, label in together] == labels.tolist()


@given(SIZES)
def test_locating_is_the_inverse_of_counting(sizes):
    view = view_of(sizes)
    classes, examples = view.locate(np.arange(len(view)))
    assert list(zip(classes.tolist(), examples.tolist(), strict=True)) == [
        (c, e) for c, size in enumerate(sizes) for e in range(size)
    ]


def test_the_first_example_of_every_class_is_its_own():
    """Torchmeta's wrapper gives it to the class before, or fails."""
    view = view_of([2, 3, 1, 4])
    for label, start in enumerate([0, 2, 5, 6]):
        classes, examples = decode(view[start][0])
        assert (view[start][1], int(classes), int(examples)) == (label, label, 0)
        assert view[start - 1][1] == (label - 1) % 4


def test_a_view_agrees_with_the_episodes_of_its_meta_dataset():
    view = view_of([5] * 6, class_augmentations=[Rotation([90, 180])])
    batch = ClassSplitter(view.dataset, num_train_per_class=5).episodes(range(20))
    inputs = batch["train"][0]
    for episode, class_id in enumerate(batch.plan.classes[:, 0]):
        for shot, example in enumerate(batch.plan.examples[episode, 0]):
            image, label = view[class_id * 5 + example]
            assert label == class_id
            np.testing.assert_array_equal(image, inputs[episode, shot])
    assert view.class_name(8) == "class2 Rotation(90)"


def test_transforms_are_drawn_for_every_example_and_epoch():
    transforms = [RandomCrop((4, 5), padding=1), RandomHorizontalFlip()]
    view, plain = view_of([20, 30], transform=transforms), view_of([20, 30])
    assert plain.gather(range(50))[0].shape[1:] == (6, 6, 1)
    first = view.gather(range(50))[0]
    assert first.shape == (50, 4, 5, 1)
    np.testing.assert_array_equal(view.gather([33, 7])[0], first[[33, 7]])
    np.testing.assert_array_equal(view[-3][0], first[-3])
    view.epoch = 1
    second = view.gather(range(50))[0]
    assert (first != second).any(axis=(1, 2, 3)).sum() > 30
    view.epoch = 0
    np.testing.assert_array_equal(view.gather(range(50))[0], first)
    assert (view_of([20, 30], seed=1, transform=transforms).gather(range(50))[0] != first).any()
    copy = pickle.loads(pickle.dumps(view))
    np.testing.assert_array_equal(copy.gather(range(50))[0], first)


def augmented():
    return view_of([20, 30], transform=[RandomCrop((4, 5), padding=1), RandomHorizontalFlip()])


def answer(view, connection):
    """A persistent worker: what it sees, whenever it is asked."""
    while connection.recv():
        connection.send((view.epoch, view.gather(range(50))[0]))


# Not by forking this process: JAX's threads, once another test has started them, do not survive it.
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_worker_that_is_there_already_sees_the_epoch(method):
    context = multiprocessing.get_context(method)
    view = augmented()
    ours, theirs = context.Pipe()
    worker = context.Process(target=answer, args=(view, theirs), daemon=True)
    worker.start()
    for epoch in (0, 3, 1, 0, 2**32 - 1):
        view.epoch = epoch
        ours.send(True)
        assert ours.poll(60)
        seen, inputs = ours.recv()
        assert seen == epoch
        np.testing.assert_array_equal(inputs, view.gather(range(50))[0])
    ours.send(False)
    worker.join(60)
    assert worker.exitcode == 0


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_torchs_persistent_workers_see_the_epoch(workers):
    data = pytest.importorskip("torch.utils.data")
    view = augmented()
    more = {"persistent_workers": True, "multiprocessing_context": "forkserver"} if workers else {}
    loader = data.DataLoader(view, batch_size=8, num_workers=workers, **more)
    passes = []
    for epoch in (0, 1, 2, 0):
        view.epoch = epoch
        passes.append(np.concatenate([inputs.numpy() for inputs, _ in loader]))
        np.testing.assert_array_equal(passes[-1], view.gather(range(50))[0])
    assert (passes[0] != passes[1]).any()
    assert (passes[1] != passes[2]).any()
    np.testing.assert_array_equal(passes[0], passes[3])


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda view: pickle.loads(pickle.dumps(view))])
def test_a_copy_has_an_epoch_of_its_own(again):
    view = augmented()
    view.epoch = 7
    other = again(view)
    assert other.epoch == 7
    view.epoch, other.epoch = 1, 2
    assert (view.epoch, other.epoch) == (1, 2)


@pytest.mark.parametrize(
    ("epoch", "error", "message"),
    [
        (-1, ValueError, r"`epoch` must lie in \[0, 2\*\*32\), got -1"),
        (2**32, ValueError, r"`epoch` must lie in \[0, 2\*\*32\), got 4294967296"),
        (0.5, TypeError, "'float' object cannot be interpreted as an integer"),
    ],
)
def test_what_is_no_epoch_is_refused(epoch, error, message):
    view = augmented()
    view.epoch = np.int64(3)
    with pytest.raises(error, match=message):
        view.epoch = epoch
    assert view.epoch == 3


def test_features_and_meta_splits():
    features = ArraySource.from_labels(np.arange(12.0).reshape(6, 2), [0, 0, 1, 1, 1, 2])
    view = SupervisedView(CombinationMetaDataset(features, 2, meta_split="val"))
    assert repr(view) == "SupervisedView(6 examples of 3 classes, meta-val)"
    assert view.gather([5, 0])[0].tolist() == [[10, 11], [0, 1]]


@pytest.mark.parametrize(
    ("read", "error", "message"),
    [
        (lambda view: view[5], IndexError, r"`indices` must lie in \[-5, 5\), got 5"),
        (lambda view: view[-6], IndexError, r"got -6"),
        (lambda view: view.gather([0, 7]), IndexError, r"got 7"),
        (lambda view: view[0.0], TypeError, "'float' object cannot be interpreted as an integer"),
        (lambda view: view["a"], TypeError, "'str' object cannot be interpreted"),
        (lambda view: view.gather([0.5]), TypeError, "`indices` must be integers, got float64"),
        (lambda view: view.gather([True]), TypeError, "`indices` must be integers, got bool"),
        (lambda view: SupervisedView(Sinusoid(5)), TypeError, "must be a CombinationMetaDataset, got Sinusoid"),
        (lambda view: SupervisedView(view.dataset, seed=0.5), TypeError, "`seed` must be an integer"),
    ],
)
def test_what_is_no_example_is_refused(read, error, message):
    with pytest.raises(error, match=message):
        read(view_of([2, 3]))


def test_a_hundred_thousand_classes():
    examples = np.lib.stride_tricks.as_strided(np.zeros(2, np.uint8), (10_000_000, 2), (0, 1))
    sizes = np.full(100_000, 100)
    source = ArraySource(examples, np.cumsum(sizes) - sizes, sizes, [str(i) for i in range(100_000)])
    view = SupervisedView(CombinationMetaDataset(source, 5))
    assert len(view) == 10_000_000
    classes, found = view.locate([0, 99, 100, 9_999_999, -1, 5_000_049])
    assert classes.tolist() == [0, 0, 1, 99_999, 99_999, 50_000]
    assert found.tolist() == [0, 99, 0, 99, 99, 49]
