"""Class sources: one content, one fingerprint, wherever it is stored; a store is whole or not there (contract C9)."""

import errno
import hashlib
import itertools
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from helpers import ROOT, coded_images, coded_source, decode, every, run_python
from hypothesis import given
from hypothesis import strategies as st

from metabridge import ClassSplitter, CombinationMetaDataset, EpisodeLoader, SupervisedView
from metabridge.sources import (
    ArraySource,
    HDF5Source,
    filter_classes,
    hdf5,
    rename_classes,
    save_source,
    split_classes,
    union,
    write_store,
)
from metabridge.sources.base import content_fingerprint, digest_classes
from metabridge.storage.atomic import remove_orphans, temporary_file
from metabridge.storage.seal import write_seal

SIZES = [4, 7, 1, 5]
NAMES = ("alef", "bet/1", "гимель", "d d")


def classes_of(dtype=np.uint8, shape=(3, 2, 1)):
    rng = np.random.default_rng(0)
    return {name: (rng.random((size, *shape)) * 255).astype(dtype) for name, size in zip(NAMES, SIZES, strict=True)}


def write(path, classes, provenance=None):
    first = next(iter(classes.values()))
    sizes = [len(each) for each in classes.values()]
    blocks = iter(classes.values())
    return write_store(path, list(classes), sizes, first.shape[1:], first.dtype, blocks, provenance or {})


@pytest.fixture
def stored(tmp_path):
    """A store of `classes_of()` and its path."""
    path = tmp_path / "store.h5"
    write(path, classes_of(), {"archive": "made here"})
    return path


CONTENTS = {
    "images": classes_of(),
    "float32 features": classes_of(np.float32, (5,)),
    "float64 features": classes_of(np.float64, (2, 3)),
    "big-endian features": classes_of(np.dtype(">f4"), (5,)),
}


def in_memory(classes, tmp_path):
    return ArraySource.from_classes(classes)


def on_disk(classes, tmp_path):
    write(tmp_path / "all.h5", classes)
    return HDF5Source(tmp_path / "all.h5")


def selected_in_memory(classes, tmp_path):
    return _among_others(classes, in_memory, tmp_path)


def selected_on_disk(classes, tmp_path):
    return _among_others(classes, on_disk, tmp_path)


def _among_others(classes, make, tmp_path):
    """These classes, selected in two steps out of a source that holds them backwards among others."""
    first = next(iter(classes.values()))
    more = {f"other {name}": array for name, array in classes.items()}
    mixed = {name: array for pair in zip(classes.items(), more.items(), strict=True) for name, array in pair}
    source = make({**dict(reversed(mixed.items())), "last": first}, tmp_path)
    half = source.select([source.class_names.index(name) for name in sorted(classes)] + [0])
    return half.select([half.class_names.index(name) for name in classes])


def pickled(classes, tmp_path):
    return pickle.loads(pickle.dumps(selected_on_disk(classes, tmp_path)))


MAKERS = [in_memory, on_disk, selected_in_memory, selected_on_disk, pickled]


@pytest.fixture(params=CONTENTS)
def classes(request):
    return CONTENTS[request.param]


@pytest.fixture(params=MAKERS, ids=lambda make: make.__name__)
def any_source(request, classes, tmp_path):
    return request.param(classes, tmp_path)


# What every source is


def test_a_source_tells_its_classes(any_source, classes):
    assert tuple(any_source.class_names) == NAMES
    assert any_source.class_sizes.tolist() == SIZES
    assert any_source.class_sizes.dtype == np.int64
    assert len(any_source) == len(SIZES)
    first = classes[NAMES[0]]
    assert any_source.example_shape == first.shape[1:]
    assert any_source.dtype.newbyteorder("=") == first.dtype.newbyteorder("=")
    assert f"(4 classes, 17 examples of shape {first.shape[1:]}, {any_source.dtype})" in repr(any_source)


def test_gather_is_naive_indexing(any_source, classes):
    rng = np.random.default_rng(1)
    class_ids = rng.integers(0, 4, (5, 3, 1))
    example_ids = rng.integers(0, 1 << 30, (5, 3, 6)) % np.array(SIZES)[class_ids]
    found = any_source.gather(class_ids, example_ids)
    assert found.shape == (5, 3, 6, *any_source.example_shape)
    assert found.dtype == any_source.dtype
    for at in np.ndindex(5, 3, 6):
        np.testing.assert_array_equal(found[at], classes[NAMES[class_ids[at[:2]].item()]][example_ids[at]])


def test_what_is_gathered_belongs_to_the_caller(any_source):
    before = any_source.gather(np.array([1]), np.array([2]))
    before[...] = 0
    assert any_source.gather(np.array([1]), np.array([2])).any()


def test_every_form_of_one_content_has_one_fingerprint(any_source, classes):
    assert any_source.fingerprint == ArraySource.from_classes(classes).fingerprint
    assert len(any_source.fingerprint) == 32


def test_select_is_a_source_of_these_classes_alone(any_source, classes):
    some = any_source.select([3, 0])
    alone = ArraySource.from_classes({name: classes[name] for name in (NAMES[3], NAMES[0])})
    assert tuple(some.class_names) == tuple(alone.class_names)
    assert some.class_sizes.tolist() == [5, 4]
    assert some.fingerprint == alone.fingerprint != any_source.fingerprint
    np.testing.assert_array_equal(
        some.gather(np.array([0, 1]), np.array([4, 3])), alone.gather(np.array([0, 1]), np.array([4, 3]))
    )
    assert np.shares_memory(some.examples, any_source.examples)


def test_every_source_pickles_to_an_equal_one(any_source):
    copy = pickle.loads(pickle.dumps(any_source))
    assert copy.fingerprint == any_source.fingerprint
    at = np.array([[0], [3]]), np.array([[0, 1]])
    np.testing.assert_array_equal(copy.gather(*at), any_source.gather(*at))


OUTSIDE = [
    ([1], [7], "`example_ids` must lie in the class, got 7 of class 1, which has 7 examples"),
    ([[0], [2]], [[0, 0], [0, 1]], "got 1 of class 2, which has 1 examples"),
    ([1], [-1], "got -1 of class 1"),
    (np.array([1], np.int8), np.array([-1], np.int8), "got -1 of class 1"),
    ([4], [0], r"`class_ids` must lie in \[0, 4\), got 4 to 4"),
    ([0, -1], [0], r"`class_ids` must lie in \[0, 4\), got -1 to 0"),
]


@pytest.mark.parametrize(("class_ids", "example_ids", "message"), OUTSIDE)
def test_what_is_not_there_is_not_gathered(any_source, class_ids, example_ids, message):
    """An example beyond a class is one of the next class."""
    at = np.asarray(class_ids), np.asarray(example_ids)
    views = rename_classes(any_source, str.upper), union(any_source.select([0, 1]), any_source.select([2, 3]))
    for source in (any_source, *views):
        with pytest.raises(IndexError, match=message if source is any_source else "must lie in"):
            source.gather(*at)
        assert source.gather(np.array([1]), np.array([6])).shape == (1, *source.example_shape)


@pytest.mark.parametrize("ids", [[0.0], [True]])
def test_ids_that_are_no_integers_are_refused(any_source, ids):
    with pytest.raises(TypeError, match="`class_ids` must be integers, got"):
        any_source.gather(np.array(ids), np.array([0]))
    with pytest.raises(TypeError, match="`example_ids` must be integers, got"):
        any_source.gather(np.array([0]), np.array(ids))


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (
            [True, False, True, False],
            TypeError,
            r"a list of integers, got bool .*; of a mask pass np\.flatnonzero\(mask\)",
        ),
        ([0.5], TypeError, "a list of integers, got float64"),
        ([[0]], TypeError, r"a list of integers, got int64 of shape \(1, 1\)"),
        ([0, 4], IndexError, r"must lie in \[0, 4\), got 0 to 4"),
        ([-1], IndexError, r"must lie in \[0, 4\), got -1"),
        ([], ValueError, "at least one class, got none"),
    ],
)
def test_what_is_no_class_is_not_selected(any_source, ids, error, message):
    both = union(any_source, rename_classes(any_source, "other {}".format))
    halves = both.select([0, 1, 4, 5])
    assert type(halves) is type(both) is not type(any_source), "a union of parts, not one source's selection"
    for source in (any_source, halves):
        with pytest.raises(error, match=message):
            source.select(ids)


def test_a_class_cannot_be_selected_twice(any_source):
    with pytest.raises(ValueError, match=r"`class_names` must be distinct, 'bet/1' appears twice"):
        any_source.select([1, 2, 1])


# Fingerprints


def _with(classes, **changes):
    return {**classes, **changes}


def _moved_boundary(classes):
    """The same examples in the same order, the first class one longer and the second one shorter."""
    (a, first), (b, second), *rest = classes.items()
    return {a: np.concatenate([first, second[:1]]), b: second[1:], **dict(rest)}


def _one_pixel(classes):
    changed = {name: array.copy() for name, array in classes.items()}
    changed[NAMES[3]][4, 2, 1, 0] ^= 1
    return changed


CHANGES = {
    "one bit of the last example": _one_pixel,
    "a name": lambda c: {name.replace("alef", "aleph"): array for name, array in c.items()},
    "the order of classes": lambda c: dict(reversed(c.items())),
    "two names exchanged": lambda c: dict(zip(("bet/1", "alef", *NAMES[2:]), c.values(), strict=True)),
    "the boundary between classes": _moved_boundary,
    "the order of examples": lambda c: _with(c, alef=c["alef"][::-1]),
    "one example fewer": lambda c: _with(c, alef=c["alef"][:-1]),
    "one class fewer": lambda c: {name: array for name, array in c.items() if name != "гимель"},
    "the shape": lambda c: {name: array.reshape(-1, 2, 3, 1) for name, array in c.items()},
    "the dtype": lambda c: {name: array.astype(np.float32) for name, array in c.items()},
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_fingerprint_changes_with_the_content(change):
    before, after = classes_of(), CHANGES[change](classes_of())
    assert ArraySource.from_classes(before).fingerprint != ArraySource.from_classes(after).fingerprint


def test_the_fingerprint_does_not_change_with_memory_layout_byte_order_or_block_size():
    classes = classes_of(np.float32)
    sizes = np.array(SIZES)
    whole = np.concatenate(list(classes.values()))
    expected = ArraySource.from_classes(classes).fingerprint
    for blocks in ([whole], [whole[:1], whole[1:]], [whole.astype(">f4")], [np.asfortranarray(whole)]):
        for dtype in (np.dtype("<f4"), np.dtype(">f4")):
            digests = digest_classes(sizes, dtype, blocks)
            assert content_fingerprint(NAMES, sizes, whole.shape[1:], dtype, digests) == expected


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.lists(st.integers(0, 40), max_size=6))
def test_there_is_one_digest_per_class_of_its_examples_alone(sizes, cuts):
    """Whatever the blocks: cut inside classes, across several, or empty."""
    examples = np.random.default_rng(0).random((sum(sizes), 3), np.float32)
    ends = np.cumsum(sizes)
    found = digest_classes(np.array(sizes), examples.dtype, np.split(examples, sorted(cuts)))
    assert (found.shape, found.dtype) == ((len(sizes), 16), np.uint8)
    for digest, size, end in zip(found, sizes, ends, strict=True):
        assert digest.tobytes() == hashlib.blake2b(examples[end - size : end].tobytes(), digest_size=16).digest()
    for wrong, word in ((examples[:-1], "fewer"), (np.concatenate([examples, examples[:1]]), "more")):
        with pytest.raises(ValueError, match=f"`blocks` must hold {ends[-1]} examples, got {word}"):
            digest_classes(np.array(sizes), examples.dtype, [wrong])


def test_names_that_are_written_alike_in_a_row_have_fingerprints_of_their_own():
    """Sizes and names follow each other, and a name may hold what looks like the next size and name."""
    examples = np.zeros((10, 2))
    made = [ArraySource(examples, [0, 5], [5, 5], names) for names in (["a\n5 b", "c"], ["a", "b\n5 c"])]
    assert made[0].fingerprint != made[1].fingerprint


def test_the_fingerprint_is_taken_in_bounded_blocks(monkeypatch):
    source = coded_source([12] * 3)
    expected = source.fingerprint
    for limit in (1, 36 * 5, 1 << 30):
        monkeypatch.setattr("metabridge.sources.array._HASH_BLOCK_BYTES", limit)
        again = coded_source([12] * 3)
        assert again.fingerprint == expected
        assert every(block.nbytes <= max(limit, 36) for block in again._blocks(range(3)))


# From arrays and from labels


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_from_labels_groups_by_label_and_keeps_order_within(labels, random):
    examples = np.arange(len(labels), dtype=np.float32)[:, None]
    names = [f"name{i}" for i in range(6)]
    source = ArraySource.from_labels(examples, labels, names)
    present = sorted(set(labels))
    assert source.class_names == tuple(f"name{label}" for label in present)
    for class_id, label in enumerate(present):
        expected = [i for i, each in enumerate(labels) if each == label]
        found = source.gather(np.array([class_id]), np.arange(len(expected)))
        assert found[:, 0].tolist() == expected
    expected = ArraySource.from_classes({f"name{label}": examples[np.array(labels) == label] for label in present})
    assert source.fingerprint == expected.fingerprint


@pytest.mark.parametrize(
    ("labels", "names"),
    [([7, -3, 7], ("-3", "7")), (["b", "a", "b"], ("a", "b")), ([0.5, 2.0, 0.5], ("0.5", "2.0"))],
)
def test_without_names_a_class_is_named_by_its_label(labels, names):
    assert ArraySource.from_labels(np.zeros((3, 2)), labels).class_names == names


@pytest.mark.parametrize(
    ("labels", "got"),
    [([0, -1], "-1.* to .*0"), ([0, 2], "0.* to .*2"), ([0.5, 1.0], "0.5.* to .*1.0"), (["a", "b"], "a.* to .*b")],
)
def test_labels_that_point_at_no_name_are_refused(labels, got):
    with pytest.raises(ValueError, match=rf"labels must be integers in \[0, 2\), got .*{got}.*; leave `class_names`"):
        ArraySource.from_labels(np.zeros((2, 3)), labels, ["zero", "one"])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ArraySource.from_classes({}), ValueError, "`classes` must hold at least one class, got an empty"),
        (lambda: ArraySource.from_classes({"a": np.zeros((2, 3), int)}), TypeError, "uint8 images or .* got int64"),
        (lambda: ArraySource.from_classes({"a": np.zeros((2, 3), bool)}), TypeError, "must be uint8 .* got bool"),
        (
            lambda: ArraySource.from_classes({"a": np.zeros((2, 3)), "b": np.zeros((0, 3))}),
            ValueError,
            "every class needs at least one example, class 'b' has none; leave it out",
        ),
        (
            lambda: ArraySource.from_labels(np.zeros((4, 2)), [0, 1, 1]),
            ValueError,
            "`labels` must have one entry per example, got 3 for 4 examples",
        ),
        (lambda: ArraySource.from_labels(np.zeros((0, 2)), []), ValueError, "at least one class, got none"),
        (
            lambda: ArraySource(np.zeros((4, 2)), [0, 2], [2], ["a", "b"]),
            ValueError,
            "`class_names` and `class_sizes` must have one entry per class, got 2 and 1",
        ),
        (
            lambda: ArraySource(np.zeros((5, 2)), [0, 2], [2.5, 2.5], ["a", "b"]),
            TypeError,
            "`class_sizes` must be integers, got float64",
        ),
        (
            lambda: ArraySource(np.zeros((5, 2)), [0.0, 2.0], [2, 2], ["a", "b"]),
            TypeError,
            "`class_starts` must be integers, got float64",
        ),
        (
            lambda: ArraySource(np.zeros((4, 2)), [0], [2, 2], ["a", "b"]),
            ValueError,
            "`class_starts` and `class_sizes` must have one entry per class, got 1 and 2",
        ),
        (lambda: ArraySource.from_classes({0: np.zeros((2, 3))}), TypeError, r"must be strings, got 0; pass str\(0\)"),
        (
            lambda: ArraySource.from_classes({"caf\udce9": np.zeros((2, 3))}),
            ValueError,
            r"must be valid Unicode, got 'caf\\udce9'; rename",
        ),
        (
            lambda: ArraySource(np.zeros((4, 2)), [0, 2], [2, 3], ["a", "b"]),
            ValueError,
            "the class table points outside the 4 rows of `examples`",
        ),
        (
            lambda: ArraySource(np.zeros((4, 2)), [-1, 2], [2, 2], ["a", "b"]),
            ValueError,
            "the class table points outside",
        ),
        (
            lambda: ArraySource(np.zeros((4, 2)), [0, 2], [2, 2], ["a", "a"]),
            ValueError,
            "`class_names` must be distinct, 'a' appears twice",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


# The store


def test_a_store_reads_back_what_was_written(classes, tmp_path):
    fingerprint = write(tmp_path / "new folder" / "store.h5", classes, {"archive": "ö", "sizes": [1, 2]})
    source = HDF5Source(tmp_path / "new folder" / "store.h5")
    assert source.fingerprint == source.recompute_fingerprint() == fingerprint
    assert source.provenance == {"archive": "ö", "sizes": [1, 2]}
    np.testing.assert_array_equal(source.examples, np.concatenate(list(classes.values())))
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["store.h5"]


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int64])
def test_class_sizes_are_stored_as_int64_whatever_integers_they_were(tmp_path, dtype):
    whole = np.concatenate(list(classes_of().values()))
    path = tmp_path / "store.h5"
    write_store(path, NAMES, np.array(SIZES, dtype), whole.shape[1:], np.uint8, [whole], {})
    with h5py.File(path, "r") as file:
        assert file["class_sizes"].dtype == np.int64
    assert HDF5Source(path).class_sizes.dtype == np.int64


def test_class_sizes_of_another_type_in_a_file_become_int64(stored):
    with changing(stored) as file:
        _replace("class_sizes", np.array(SIZES, np.int32))(file)
    source = HDF5Source(stored)
    assert (source.class_sizes.dtype, source.class_starts.dtype) == (np.int64, np.int64)
    assert source.class_sizes.tolist() == SIZES


def test_writing_twice_gives_the_same_content_whatever_the_blocks(tmp_path):
    classes = classes_of()
    whole = np.concatenate(list(classes.values()))
    found = {write(tmp_path / "a.h5", classes)}
    for cuts in ([], [3], [1, 1, 9], range(len(whole))):
        blocks = np.split(whole, cuts)
        path = tmp_path / f"{len(found)}.h5"
        found.add(write_store(path, NAMES, SIZES, whole.shape[1:], np.uint8, blocks, {}))
    assert len(found) == 1


def test_examples_are_memory_mapped_and_contiguous(stored):
    """Every view of the file ends in one `np.memmap`: nothing was read into memory."""
    source = HDF5Source(stored)
    for examples in (source.examples, source.select([2, 0]).examples):
        base = examples
        while base is not None and not isinstance(base, np.memmap):
            base = base.base
        assert isinstance(base, np.memmap)
        assert (base.mode, os.path.realpath(base.filename)) == ("r", os.path.realpath(stored))
        assert not examples.flags.writeable
    with h5py.File(stored, "r") as file:
        assert file["examples"].chunks is None
        offset = file["examples"].id.get_offset()
    raw = stored.read_bytes()[offset : offset + source.examples.nbytes]
    assert raw == source.examples.tobytes()


def test_pickles_of_a_store_hold_a_path_and_no_examples(tmp_path):
    classes = {f"class {i}": np.full((50, 28, 28, 1), i, np.uint8) for i in range(8)}
    write(tmp_path / "store.h5", classes)
    source = HDF5Source(tmp_path / "store.h5")
    for each in (source, source.select([5, 3]), source.select([5, 3, 1]).select([1])):
        content = pickle.dumps(each)
        assert len(content) < 1_000 < each.examples.nbytes
        assert pickle.loads(content).fingerprint == each.fingerprint


FOUR_EACH = {name: coded_images(c, 4) for c, name in enumerate(NAMES)}


def tasks_over(source, query_source=None):
    splitter = ClassSplitter(num_train_per_class=1, num_test_per_class=1)
    return CombinationMetaDataset(source, 2, dataset_transform=splitter, query_source=query_source)


HOLDERS = {
    "a store": lambda source: source,
    "a selection": lambda source: source.select([3, 1]),
    "a selection of a selection": lambda source: source.select([3, 1]).select([1]),
    "a union": lambda source: union(source.select([0]), rename_classes(source.select([3, 1]), str.upper)),
    "other names": lambda source: rename_classes(source, str.upper),
    "a filter": lambda source: filter_classes(source, min_examples=4),
    "a meta-split": lambda source: split_classes(source, fractions={"train": 0.5})["train"],
    "a meta-dataset": tasks_over,
    "its query source": lambda source: tasks_over(ArraySource.from_classes(FOUR_EACH), source),
    "a loader": lambda source: EpisodeLoader(tasks_over(source), 1, 1, seed=0),
    "all examples": lambda source: SupervisedView(tasks_over(source)),
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_pickle_of_what_holds_a_store_never_reads_another_store(tmp_path, holder):
    """The plans would be the same, their examples others."""
    path = tmp_path / "store.h5"
    write(path, FOUR_EACH)
    content = pickle.dumps(HOLDERS[holder](HDF5Source(path)))
    pickle.loads(content)
    write(path, dict(reversed(FOUR_EACH.items())))
    with pytest.raises(
        ValueError, match=rf"{path} must hold the store that was pickled, of fingerprint [0-9a-f]{{32}}"
    ):
        pickle.loads(content)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="no class source at"):
        pickle.loads(content)


def test_an_array_that_is_mapped_is_pickled_with_its_examples(tmp_path):
    np.save(tmp_path / "a.npy", np.concatenate(list(FOUR_EACH.values())))
    mapped = ArraySource.from_labels(np.load(tmp_path / "a.npy", mmap_mode="r"), np.repeat(range(4), 4))
    content = pickle.dumps(mapped)
    np.save(tmp_path / "a.npy", np.zeros((16, 6, 6, 1), np.uint8))
    assert pickle.loads(content).gather(np.array([3]), np.array([2]))[0, 0, :2, 0].tolist() == [3, 2]


def flipped(path, position):
    """Flip one bit of the byte at `position`."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << position % 8
    path.write_bytes(content)


def test_any_flipped_byte_of_a_store_is_named_before_its_content_is_used(tmp_path):
    path = tmp_path / "store.h5"
    write(path, FOUR_EACH)
    content, (begin, end) = path.read_bytes(), examples_of(path)
    positions = np.random.default_rng(0).integers(0, len(content), 60).tolist()
    positions += [0, 511, 512, begin - 1, *range(begin, end, 97), end - 1, len(content) - 1]
    for position in positions:
        flipped(path, position)
        with pytest.raises(ValueError, match=rf"{path} .*build it again"):
            every_class(HDF5Source(path))
        path.write_bytes(content)
    every_class(HDF5Source(path))
    flipped(path, begin)
    every_class(HDF5Source(path, check_examples=False))


def every_class(source):
    """Read two examples of every class, one class after another."""
    for class_id in range(len(source)):
        found = source.gather(np.array([class_id]), np.array([1, 3]))
        np.testing.assert_array_equal(found, FOUR_EACH[source.class_names[class_id]][[1, 3]])


DAMAGED_CLASS = r"is damaged: the examples of class 'bet/1' are not those that were written; delete the file and build"


@pytest.mark.parametrize("holder", ["a store", "a selection", "a union", "other names"])
def test_a_damaged_class_alone_is_refused_whoever_asks_for_it(tmp_path, holder):
    path = tmp_path / "store.h5"
    write(path, FOUR_EACH)
    flipped(path, examples_of(path)[0] + 5 * 36 + 7)  # of the second class
    for source in (HOLDERS[holder](HDF5Source(path)), pickle.loads(pickle.dumps(HOLDERS[holder](HDF5Source(path))))):
        for class_id, name in enumerate(source.class_names):
            if name.lower() != "bet/1":
                assert source.gather(np.array([class_id]), np.array([3])).any()
            else:
                for _ in range(2):
                    with pytest.raises(ValueError, match=DAMAGED_CLASS):
                        source.gather(np.array([class_id]), np.array([3]))
        with pytest.raises(ValueError, match=DAMAGED_CLASS):
            save_source(source, tmp_path / "copy.h5", progress=False)
    unchecked = pickle.loads(pickle.dumps(HOLDERS[holder](HDF5Source(path, check_examples=False))))
    save_source(unchecked, tmp_path / "copy.h5", progress=False)


@pytest.mark.parametrize("content", CONTENTS)
def test_a_class_is_compared_with_its_digest_once(tmp_path, content, monkeypatch):
    write(tmp_path / "store.h5", CONTENTS[content])
    source, read = HDF5Source(tmp_path / "store.h5"), []
    blocks = ArraySource._blocks
    monkeypatch.setattr(ArraySource, "_blocks", lambda self, ids: read.extend(ids) or blocks(self, ids))
    some = source.select([3, 1])
    for asked, seen in (([1, 1], [1]), ([0, 1], [1, 3]), ([0], [1, 3])):
        some.gather(np.array(asked), np.array([0]))
        assert read == seen
    source.gather(np.array([[0], [1]]), np.array([[0, 1]]))
    assert read == [1, 3, 0]


def test_a_damaged_file_is_found(stored):
    source = HDF5Source(stored)
    with h5py.File(stored, "r") as file:
        offset = file["examples"].id.get_offset()
    with stored.open("r+b") as file:
        file.seek(offset + source.examples.nbytes - 1)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([last ^ 1]))
    damaged = HDF5Source(stored)
    assert damaged.fingerprint == source.fingerprint
    assert damaged.recompute_fingerprint() != damaged.fingerprint


def test_a_damaged_table_of_digests_is_found(stored):
    """Fingerprints of selections come from it, though the examples are what they were."""
    with changing(stored) as file:
        file["class_digests"][2, 7] ^= 1
    damaged = HDF5Source(stored)
    assert damaged.recompute_fingerprint() != damaged.fingerprint
    assert damaged.select([2]).fingerprint != ArraySource.from_classes(classes_of()).select([2]).fingerprint
    assert damaged.select([1]).fingerprint == ArraySource.from_classes(classes_of()).select([1]).fingerprint


def test_the_fingerprint_of_a_selection_reads_no_example(stored, monkeypatch):
    expected = ArraySource.from_classes(classes_of()).select([3, 1]).fingerprint
    monkeypatch.setattr(ArraySource, "_blocks", lambda self, ids: pytest.fail("the examples were read"))
    for source in (HDF5Source(stored), pickle.loads(pickle.dumps(HDF5Source(stored)))):
        some = source.select([0, 3, 1]).select([1, 2])
        assert some.fingerprint == pickle.loads(pickle.dumps(some)).fingerprint == expected
        assert len(union(some, rename_classes(source.select([0]), "other {}".format)).fingerprint) == 32
    with pytest.raises(pytest.fail.Exception, match="the examples were read"):
        source.recompute_fingerprint()


def test_digests_are_memory_mapped_with_the_examples(stored):
    """Opening reads none of them, and they are those of the file that was opened."""
    source = HDF5Source(stored)
    before = source.select([1]).fingerprint
    write(stored, {name: array ^ 255 for name, array in classes_of().items()})
    assert source.select([1]).fingerprint == before != HDF5Source(stored).select([1]).fingerprint
    base = source.class_digests
    while not isinstance(base, np.memmap):
        base = base.base


def test_a_huge_class_is_hashed_in_bounded_memory(tmp_path):
    source = ArraySource(
        np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (1 << 27, 1), (0, 1)), [0], [1 << 27], "a"
    )
    tracemalloc.start()
    try:
        assert len(source.fingerprint) == 32
        assert tracemalloc.get_traced_memory()[1] < 40 << 20 < 1 << 27
    finally:
        tracemalloc.stop()


def test_a_missing_store_names_the_command_that_builds_it(tmp_path):
    for path in (tmp_path / "none.h5", tmp_path):
        with pytest.raises(FileNotFoundError, match=rf"no class source at {path}; build it first with `metabridge b"):
            HDF5Source(path)


DAMAGED = r"store\.h5 is not a readable class source \(.*\); delete it and build it again"


def examples_of(path):
    """Where the examples begin and end in a store."""
    with h5py.File(path, "r") as file:
        offset = file["examples"].id.get_offset()
        return offset, offset + file["examples"].nbytes


@contextmanager
def changing(path):
    """A store open to be changed, and sealed again as if it had been written so."""
    begin, end = examples_of(path)
    with h5py.File(path, "r+") as file:
        yield file
    write_seal(path, "class source", begin, end - begin)


def test_a_truncated_file_is_refused_wherever_it_ends(stored):
    """Before its examples are mapped, of which those beyond the end would kill the reader."""
    content = stored.read_bytes()
    for keep in [*range(0, len(content), 97), len(content) - 1]:
        stored.write_bytes(content[:keep])
        with pytest.raises(ValueError, match=DAMAGED):
            HDF5Source(stored)


@pytest.mark.parametrize("reason", [errno.ENOMEM, errno.EMFILE, errno.EIO])
def test_what_may_pass_is_no_damage(stored, monkeypatch, reason):
    """Or else a sound store would be built again, over itself."""

    def fail(*arguments, **more):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(np, "memmap", fail)
    with pytest.raises(OSError, match=os.strerror(reason)) as caught:
        HDF5Source(stored)
    assert caught.value.errno == reason


def test_images_with_channels_in_front_are_refused_before_anything_is_written(tmp_path):
    blocks = iter([np.zeros((2, 3, 32, 32), np.uint8)])
    with pytest.raises(ValueError, match=r"pass images\.transpose"):
        write_store(tmp_path / "store.h5", ["a"], [2], (3, 32, 32), np.uint8, blocks, {})
    assert len(list(blocks)) == 1
    assert not list(tmp_path.iterdir())


def test_a_longer_file_is_refused(stored):
    stored.write_bytes(stored.read_bytes() + b"0")
    with pytest.raises(ValueError, match=r"it has [\d,]+ bytes, [\d,]+ were written"):
        HDF5Source(stored)


def test_a_file_with_a_zeroed_tail_is_refused(stored):
    """What a crash of the machine may leave of a copied file."""
    content = stored.read_bytes()
    for keep in (0, 10, 600, 1000, 3000, examples_of(stored)[0] - 1):
        stored.write_bytes(content[:keep] + bytes(len(content) - keep))
        with pytest.raises(ValueError, match=DAMAGED):
            HDF5Source(stored)


def test_a_foreign_file_is_refused(tmp_path):
    for content in (b"", b"no HDF5", bytes(5000), b"metabridge class source\n" * 50):
        (tmp_path / "store.h5").write_bytes(content)
        with pytest.raises(ValueError, match=DAMAGED):
            HDF5Source(tmp_path / "store.h5")
    with h5py.File(tmp_path / "store.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(hdf5.FormatVersionError, match=r"is HDF5, but no store of version 2: .* with save_source"):
        HDF5Source(tmp_path / "store.h5")


OPEN_DAMAGED = """
import sys
from pathlib import Path
from metabridge.sources import HDF5Source

path, begin, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
content = path.read_bytes()
for byte in [*range(56), *range(512, begin, 5), *range(end, len(content), 5)]:
    changed = bytearray(content)
    changed[byte] ^= 1 << byte % 8
    path.write_bytes(changed)
    try:
        HDF5Source(path)
    except ValueError as error:
        assert "build it again" in str(error), (byte, error)
    else:
        print("opened with a bit changed in byte", byte)
"""


def test_no_changed_bit_around_the_examples_passes(stored):
    """In a process of its own: damage that reaches the HDF5 library may crash it, or hang it."""
    result = run_python(OPEN_DAMAGED, stored, *examples_of(stored))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def _remove(name):
    def change(file):
        del file[name]

    return change


def _replace(name, value):
    def change(file):
        del file[name]
        file[name] = value

    return change


def _in_chunks(file):
    examples = file["examples"][()]
    del file["examples"]
    file.create_dataset("examples", data=examples, chunks=(1, *examples.shape[1:]))


def _without_space(file):
    del file["examples"]
    file.create_dataset("examples", (17, 3, 2, 1), np.uint8)  # HDF5 gives it none until something is written


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *((_remove(name), "") for name in ("examples", "class_digests", "class_sizes", "class_names")),
        (lambda file: file.attrs.pop("fingerprint"), ""),
        (lambda file: file.attrs.pop("provenance"), ""),
        (lambda file: file.attrs.modify("provenance", "{"), ""),
        (lambda file: file.attrs.modify("provenance", "3"), ""),
        (_in_chunks, "its examples are not stored in one piece"),
        (_without_space, "its examples are not stored in one piece"),
        (_replace("class_digests", np.zeros((4, 15), np.uint8)), "its table of classes does not fit together"),
        (_replace("class_digests", np.zeros((5, 16), np.uint8)), "its table of classes does not fit together"),
        (_replace("class_digests", np.zeros((4, 16), np.int8)), "its table of classes does not fit together"),
        (_replace("class_sizes", np.array([4, 7, 1])), "its table of classes does not fit together"),
        (_replace("class_sizes", np.array([4.0, 7.0, 1.0, 5.0])), "its table of classes does not fit together"),
        (_replace("class_sizes", np.array([4, 7, 1, 4])), "its class sizes do not add up to its 17 examples"),
        (_replace("class_sizes", np.array([4, 8, 0, 5])), "its class sizes do not add up to its 17 examples"),
        (_replace("class_names", ["a", "b", "c"]), "its table of classes does not fit together"),
        (_replace("class_names", ["a", "b", "c", "c"]), "must be distinct, 'c' appears twice"),
        (_replace("examples", np.zeros(17, "S3")), r"its examples are \|S3"),
        (_replace("examples", 3), ""),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(stored, change, reason):
    with changing(stored) as file:
        change(file)
    with pytest.raises(ValueError, match=DAMAGED) as caught:
        HDF5Source(stored)
    assert caught.match(reason)


@pytest.mark.parametrize(
    ("attribute", "value", "got"),
    [
        ("format", "something else", "'something else' version 2"),
        ("format", None, "None version 2"),
        ("format_version", 1, "'metabridge class source' version 1"),
    ],
)
def test_another_format_or_version_is_refused(stored, attribute, value, got):
    with changing(stored) as file:
        del file.attrs[attribute]
        if value is not None:
            file.attrs[attribute] = value
    words = f"must be a 'metabridge class source' of version 2, got {got}; b"
    with pytest.raises(hdf5.FormatVersionError, match=words):
        HDF5Source(stored)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


WRONG_BLOCKS = [
    ([np.zeros((2, 3), np.uint8)], r"`blocks` must hold 5 examples, got 2"),
    ([np.zeros((4, 3), np.uint8), np.zeros((2, 3), np.uint8)], r"5 examples of shape \(3,\), got .* \(2, 3\) at row 4"),
    ([np.zeros((5, 4), np.uint8)], r"5 examples of shape \(3,\), got a block of shape \(5, 4\) at row 0"),
    ([], r"`blocks` must hold 5 examples, got 0"),
]


@pytest.mark.parametrize(("blocks", "message"), WRONG_BLOCKS)
def test_blocks_that_do_not_fit_leave_nothing(tmp_path, blocks, message):
    with pytest.raises(ValueError, match=message):
        write_store(tmp_path / "store.h5", ["a", "b"], [2, 3], (3,), np.uint8, blocks, {})
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("names", "sizes", "dtype", "error", "message"),
    [
        (["a", "a"], [1, 1], np.uint8, ValueError, "`class_names` must be distinct, 'a' appears twice"),
        (["a", "b"], [2, 0], np.uint8, ValueError, "every class needs at least one example, class 'b' has none"),
        (["a", "b"], [1, 1], np.int32, TypeError, "`examples` must be uint8 images or floating-point"),
        (["a", "b", "c"], [1, 1], np.uint8, ValueError, "must have one entry per class, got 3 and 2"),
        ([], [], np.uint8, ValueError, "at least one class, got none"),
        (["a", 1], [1, 1], np.uint8, TypeError, "`class_names` must be strings, got 1"),
        (["a", "b"], [1.5, 1.5], np.uint8, TypeError, "`class_sizes` must be integers, got float64"),
    ],
)
def test_a_table_that_no_source_could_have_is_refused_before_anything_is_made(
    tmp_path, names, sizes, dtype, error, message
):
    def blocks():
        raise AssertionError
        yield

    with pytest.raises(error, match=message):
        write_store(tmp_path / "store.h5", names, sizes, (3,), dtype, blocks(), {})
    with pytest.raises(ValueError, match=r"`example_shape` must have no axis of length 0, got \(3, 0\)"):
        write_store(tmp_path / "store.h5", ["a"], [1], (3, 0), np.uint8, blocks(), {})
    assert left_in(tmp_path) == []


def test_an_interruption_leaves_the_folder_as_it_was(stored):
    def interrupted():
        yield classes_of()["alef"]
        raise KeyboardInterrupt

    before = stored.read_bytes()
    for path in (stored, stored.with_name("new.h5")):
        with pytest.raises(KeyboardInterrupt, match=r"^$"):
            write_store(path, NAMES, SIZES, (3, 2, 1), np.uint8, interrupted(), {})
    assert left_in(stored.parent) == ["store.h5"]
    assert stored.read_bytes() == before


KILLED = """
import os, signal, sys
import numpy as np
from metabridge.sources import write_store

def blocks():
    yield np.zeros((1, 3), np.uint8)
    os.kill(os.getpid(), signal.SIGKILL)

write_store(sys.argv[1], ["a", "b"], [1, 1], (3,), np.uint8, blocks(), {})
"""


def test_a_killed_writer_leaves_nothing_under_the_good_name(tmp_path):
    assert run_python(KILLED, tmp_path / "store.h5").returncode == -signal.SIGKILL
    assert not (tmp_path / "store.h5").exists()
    write(tmp_path / "store.h5", classes_of())
    assert HDF5Source(tmp_path / "store.h5").recompute_fingerprint()


def test_of_two_writers_at_once_the_last_to_finish_stays_whole(tmp_path):
    path = tmp_path / "store.h5"
    inner, outer = classes_of(), {name: array ^ 255 for name, array in classes_of().items()}
    seen = []

    def blocks():
        for number, array in enumerate(outer.values()):
            yield array
            if number == 1:  # in the middle of this store another writer makes and moves the other one
                seen.append((write(path, inner), HDF5Source(path).recompute_fingerprint(), len(left_in(tmp_path))))

    last = write_store(path, NAMES, SIZES, (3, 2, 1), np.uint8, blocks(), {})
    first, read, files = seen[0]
    assert first == read != last
    assert files == 2, "the finished store and the unfinished one's temporary file"
    assert HDF5Source(path).recompute_fingerprint() == last
    assert left_in(tmp_path) == ["store.h5"]


# What killed writers leave


def orphan_of(path):
    """A temporary file as a killed writer leaves it: there, and nobody's."""
    orphan = path.with_name(f".{path.name}.{'0' * 32}.part")
    orphan.write_bytes(b"16 GB")
    return orphan


def test_the_next_writer_removes_what_killed_ones_left_for_this_store_alone(tmp_path):
    kept = [".store.h5.part", ".store.h5.backup.part", f".other.h5.{'0' * 32}.part", f"store.h5.{'0' * 32}.part"]
    kept += [f".store.h5.{'0' * 32}.unlocked.part", f".store.h5.x.{'0' * 32}.part"]
    for name in kept:
        (tmp_path / name).touch()
    (tmp_path / f".store.h5.{'1' * 32}.part").mkdir()
    orphan_of(tmp_path / "store.h5")
    write(tmp_path / "store.h5", classes_of())
    assert left_in(tmp_path) == sorted([*kept, f".store.h5.{'1' * 32}.part", "store.h5"])


def test_orphans_are_removed_before_the_free_space_is_looked_at(tmp_path, monkeypatch):
    orphan = orphan_of(tmp_path / "store.h5")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0 if orphan.exists() else 1 << 30))
    write(tmp_path / "store.h5", classes_of())
    assert left_in(tmp_path) == ["store.h5"]


def test_what_a_living_writer_writes_is_left_alone(tmp_path):
    target = tmp_path / "store.h5"
    with temporary_file(target) as path:
        path.write_bytes(b"half")
        with path.open("ab"):  # opening and closing it again gives up no lock
            pass
        remove_orphans(target)
        assert path.read_bytes() == b"half"
    assert left_in(tmp_path) == []


def test_a_file_taken_for_an_orphan_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    import fcntl

    target, lock, calls = tmp_path / "store.h5", fcntl.flock, []

    def late(file, flags):
        calls.append(file)
        if len(calls) == 1:  # between making the file and locking it another writer looks for orphans
            remove_orphans(target)
            assert left_in(tmp_path) == []
        lock(file, flags)

    monkeypatch.setattr("fcntl.flock", late)
    with temporary_file(target) as path:
        assert left_in(tmp_path) == [path.name]
    assert len(calls) == 3
    monkeypatch.undo()
    holders = []

    def held(file, flags):
        if not holders:  # the other writer has the lock already, and removes the file a moment later
            holders.append(open(file.name, "rb"))  # noqa: PTH123, SIM115
            lock(holders[0], flags)
        lock(file, flags)

    monkeypatch.setattr("fcntl.flock", held)
    with temporary_file(target) as path:
        assert holders[0].name != str(path)
        remove_orphans(target)
        assert path.exists()
    holders[0].close()


@pytest.mark.parametrize("failure", ["no locks", "no module"])
def test_without_locks_stores_are_written_and_orphans_left_alone(tmp_path, monkeypatch, failure):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    orphan = orphan_of(tmp_path / "store.h5")
    with monkeypatch.context() as without:
        if failure == "no locks":
            without.setattr("fcntl.flock", no_locks)
        else:
            without.setitem(sys.modules, "fcntl", None)
        write(tmp_path / "store.h5", classes_of())
        assert left_in(tmp_path) == [orphan.name, "store.h5"]
        with temporary_file(tmp_path / "store.h5") as path:
            without.undo()
            remove_orphans(tmp_path / "store.h5")  # by a process that has locks, on the same disk
            assert left_in(tmp_path) == sorted([path.name, "store.h5"])
    assert left_in(tmp_path) == ["store.h5"]


WRITING = """
import os, signal, sys, time
import numpy as np
from metabridge.sources import HDF5Source, write_store

path, value, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

def blocks():
    for _ in range(3):
        yield np.full((1, 5), value, np.uint8)
        time.sleep(0.001)
    if rounds == 0:
        print("writing", flush=True)
        time.sleep(60)

for _ in range(max(rounds, 1)):
    write_store(path, ["a"], [3], (5,), np.uint8, blocks(), {})
    found = HDF5Source(path)
    assert found.recompute_fingerprint() == found.fingerprint
    assert len(np.unique(found.examples)) == 1
"""


def start_writing(path, value, rounds):
    return subprocess.Popen(
        [sys.executable, "-c", WRITING, str(path), str(value), str(rounds)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_many_writers_at_once_do_not_take_each_other_for_dead(tmp_path):
    path = tmp_path / "store.h5"
    writers = [start_writing(path, value, 25) for value in range(3)]
    errors = [writer.communicate(timeout=60)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 3, errors
    assert left_in(tmp_path) == ["store.h5"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_file_of_another_process_is_removed_once_it_is_dead(tmp_path, number):
    path = tmp_path / "store.h5"
    with start_writing(path, 1, 0) as writer:
        assert writer.stdout.readline() == "writing\n"
        write(path, classes_of())
        assert len(left_in(tmp_path)) == 2, "it lives"
        writer.send_signal(number)
        writer.communicate()
        assert writer.returncode == -number
    write(path, classes_of())
    assert left_in(tmp_path) == ["store.h5"]


@pytest.mark.parametrize("locking", ["TRUE", "FALSE", "BEST_EFFORT"])
def test_hdf5s_own_locks_do_not_get_in_the_way(tmp_path, monkeypatch, locking):
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", locking)
    with start_writing(tmp_path / "store.h5", 1, 2) as writer:
        errors = writer.communicate(timeout=60)[1]
        assert writer.returncode == 0, errors


# Examples that come in another order


def in_order_of(order, classes, together=1):
    """Pairs of rows and examples, in an order, so many at a time; alone they are a number and an example."""
    whole = np.concatenate(list(classes.values()))
    for start in range(0, len(order), together):
        rows = order[start : start + together]
        yield (rows[0], whole[rows[0]]) if together == 1 else (rows, whole[rows])


def write_rows(path, pairs, classes=None):
    first = next(iter((classes or classes_of()).values()))
    return write_store(path, NAMES, SIZES, first.shape[1:], first.dtype, pairs, {})


@pytest.mark.parametrize("together", [1, 3, 17])
@pytest.mark.parametrize("order", ["as it is", "reversed", "mixed"])
def test_the_order_in_which_examples_come_does_not_matter(classes, tmp_path, order, together):
    order = {
        "as it is": np.arange(17),
        "reversed": np.arange(17)[::-1],
        "mixed": np.random.default_rng(1).permutation(17),
    }[order]
    expected = write(tmp_path / "a.h5", classes)
    assert write_rows(tmp_path / "b.h5", in_order_of(order, classes, together), classes) == expected
    np.testing.assert_array_equal(HDF5Source(tmp_path / "b.h5").examples, HDF5Source(tmp_path / "a.h5").examples)
    assert HDF5Source(tmp_path / "b.h5").recompute_fingerprint() == expected
    assert left_in(tmp_path) == ["a.h5", "b.h5"]


EXAMPLE = np.zeros((3, 2, 1), np.uint8)
ALL = list(range(17))
WRONG_ROWS = [
    ([(row, EXAMPLE) for row in ALL if row != 5], ValueError, "17 examples, got 16; row 5 is the first missing"),
    ([(row, EXAMPLE) for row in [*ALL, 5]], ValueError, "every row must be in `blocks` once, row 5 comes again"),
    ([([3, 4, 3], np.stack([EXAMPLE] * 3))], ValueError, "once, row 3 comes again"),
    ([(17, EXAMPLE)], ValueError, r"must be in \[0, 17\), got 17"),
    ([(-1, EXAMPLE)], ValueError, r"must be in \[0, 17\), got -1"),
    ([(0.0, EXAMPLE)], TypeError, r"must be one integer or `\(n,\)` of them, got float64 \(1,\)"),
    ([(True, EXAMPLE)], TypeError, "must be one integer"),
    ([([[0]], EXAMPLE[np.newaxis])], TypeError, "must be one integer"),
    ([([0, 1], EXAMPLE[np.newaxis])], ValueError, r"shape \(3, 2, 1\), got \(1, 3, 2, 1\) for 2 rows"),
    ([(0, EXAMPLE[:2])], ValueError, r"shape \(3, 2, 1\), got \(1, 2, 2, 1\) for 1 rows"),
    ([(0, EXAMPLE), EXAMPLE[np.newaxis]], TypeError, "all arrays or all pairs of rows and examples, got both"),
    ([EXAMPLE[np.newaxis], (1, EXAMPLE)], TypeError, "all arrays or all pairs of rows and examples, got both"),
    ([(0, EXAMPLE + np.int64(300))], ValueError, "must hold values that fit uint8, got .*int.* values that do not"),
    ([(0, EXAMPLE + 0.5)], ValueError, "must hold values that fit uint8, got float64"),
    ([(0, EXAMPLE.astype(np.int8) - 1)], ValueError, "must hold values that fit uint8, got int"),
    ([np.full((17, 3, 2, 1), 256)], ValueError, "must hold values that fit uint8, got int64"),
]


@pytest.mark.parametrize(("blocks", "error", "message"), WRONG_ROWS)
def test_rows_that_do_not_fit_leave_nothing(tmp_path, blocks, error, message):
    with pytest.raises(error, match=message):
        write_rows(tmp_path / "store.h5", blocks)
    assert left_in(tmp_path) == []


def test_values_of_another_type_that_fit_are_taken(tmp_path):
    whole = np.concatenate(list(classes_of().values()))
    expected = write(tmp_path / "a.h5", classes_of())
    for blocks in ([whole.astype(np.int64)], [(np.arange(17), whole.astype(np.float64))]):
        assert write_rows(tmp_path / "b.h5", blocks) == expected


def test_rows_are_read_back_once(tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(HDF5Source, "recompute_fingerprint", lambda self: reads.append("again") or self.fingerprint)
    write_rows(tmp_path / "rows.h5", in_order_of(ALL, classes_of()))
    assert reads == []
    write(tmp_path / "blocks.h5", classes_of())
    assert reads == ["again"]


def test_rows_are_written_in_bounded_memory(tmp_path):
    example = np.zeros((1 << 18,), np.uint8)
    tracemalloc.start()
    try:
        write_store(tmp_path / "s.h5", ["a"], [200], (1 << 18,), np.uint8, ((i, example) for i in range(200)[::-1]), {})
        assert tracemalloc.get_traced_memory()[1] < 40 << 20 < 200 << 18
    finally:
        tracemalloc.stop()


def test_a_row_that_reads_back_differently_is_not_kept(tmp_path, monkeypatch):
    numbers = itertools.count()
    monkeypatch.setattr(hdf5.zlib, "crc32", lambda content: next(numbers))
    with pytest.raises(OSError, match="reads back differently in row 0 than was written; the disk may be failing"):
        write_rows(tmp_path / "store.h5", in_order_of(ALL, classes_of()))
    assert left_in(tmp_path) == []


KILLED_LATE = """
import os, pathlib, signal, sys
import numpy as np
from metabridge.sources import hdf5, write_store

path, place, kind = sys.argv[1:]

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def blocks():
    for row in range(4):
        if (place, row) == ("row", 2):
            kill()
        yield np.full((1, 3), row, np.uint8) if kind == "blocks" else (3 - row, np.full(3, 3 - row, np.uint8))

if place == "layout":
    hdf5._written = kill
elif place == "check":
    hdf5._check_written = kill
elif place == "move":
    pathlib.Path.replace = kill
write_store(path, ["a", "b"], [2, 2], (3,), np.uint8, blocks(), {})
if place == "end":
    kill()
"""


@pytest.mark.parametrize("kind", ["blocks", "rows"])
@pytest.mark.parametrize("place", ["layout", "row", "check", "move", "end"])
def test_a_writer_killed_anywhere_leaves_nothing_or_the_whole(tmp_path, place, kind):
    path = tmp_path / "store.h5"
    assert run_python(KILLED_LATE, path, place, kind).returncode == -signal.SIGKILL
    if place == "end":
        assert HDF5Source(path).recompute_fingerprint() == HDF5Source(path).fingerprint
        assert HDF5Source(path).examples[:, 0].tolist() == [0, 1, 2, 3]
        assert left_in(tmp_path) == ["store.h5"]
    else:
        (left,) = left_in(tmp_path)
        assert left.startswith(".store.h5.")
        assert left.endswith(".part")
        write(path, classes_of())
        assert left_in(tmp_path) == ["store.h5"], "the next writer removes what the killed one left"


FULL = """
import resource, sys
import numpy as np
from metabridge.sources import write_store

path, limit, kind = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
examples = np.zeros((100, 10_000), np.uint8)
try:
    blocks = [examples] if kind == "blocks" else [(range(100), examples)]
    write_store(path, ["a"], [100], (10_000,), np.uint8, blocks, {})
except OSError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["blocks", "rows"])
@pytest.mark.parametrize("limit", [0, 3_000, 500_000, 1_002_000])
def test_a_full_disk_leaves_nothing_and_says_so(tmp_path, limit, kind):
    result = run_python(FULL, tmp_path / "store.h5", limit, kind)
    assert result.returncode == 0, result.stderr
    assert "store.h5 cannot be stored (File too large): it needs 1,000,000 bytes, and " in result.stdout
    assert result.stderr == ""
    assert left_in(tmp_path) == []
    assert "stored" not in run_python(FULL, tmp_path / "store.h5", 2_000_000, kind).stdout
    assert left_in(tmp_path) == ["store.h5"]


def test_too_little_space_is_found_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))

    def blocks():
        raise AssertionError
        yield

    with pytest.raises(OSError, match=r"\(No space left on device\): it needs 102 bytes, and 100 are free on the disk"):
        write_rows(tmp_path / "store.h5", blocks())
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("fallocate", ["promises", "is not supported", "is not there"])
def test_a_disk_that_fills_up_while_writing_leaves_nothing(tmp_path, monkeypatch, fallocate):
    def unsupported(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    def full(self, file, row, block):
        if row == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_row(self, file, row, block)

    if fallocate == "is not there":
        monkeypatch.delattr(os, "posix_fallocate")
    elif fallocate == "is not supported":
        monkeypatch.setattr(os, "posix_fallocate", unsupported)
    write_row = hdf5._Region.write
    expected = write_rows(tmp_path / "good.h5", in_order_of(ALL, classes_of()))
    assert HDF5Source(tmp_path / "good.h5").recompute_fingerprint() == expected
    monkeypatch.setattr(hdf5._Region, "write", full)
    with pytest.raises(OSError, match=r"store\.h5 cannot be stored \(No space left on device\)"):
        write_rows(tmp_path / "store.h5", in_order_of(ALL, classes_of()))
    assert left_in(tmp_path) == ["good.h5"]


def test_an_error_of_the_disk_other_than_full_is_left_alone(tmp_path):
    def blocks():
        yield classes_of()["alef"]
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        write_rows(tmp_path / "store.h5", blocks())
    assert left_in(tmp_path) == []


def test_an_open_source_keeps_its_content_when_the_store_is_replaced(stored):
    source = HDF5Source(stored)
    before = source.examples.copy()
    write(stored, {name: array ^ 255 for name, array in classes_of().items()})
    np.testing.assert_array_equal(source.examples, before)
    assert HDF5Source(stored).fingerprint != source.fingerprint


def test_a_store_that_reads_back_differently_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(hdf5.HDF5Source, "recompute_fingerprint", lambda self: "0" * 32)
    with pytest.raises(OSError, match=r"reads back with fingerprint 0{32}, [0-9a-f]{32} was written; the disk may"):
        write(tmp_path / "store.h5", classes_of())
    assert left_in(tmp_path) == []


def test_a_store_may_be_moved(stored, tmp_path):
    expected = HDF5Source(stored).fingerprint
    (tmp_path / "elsewhere").mkdir()
    shutil.move(stored, tmp_path / "elsewhere" / "other.h5")
    assert HDF5Source(tmp_path / "elsewhere" / "other.h5").recompute_fingerprint() == expected


FORKING = """
import json, os, sys
import numpy as np
from metabridge.sources import HDF5Source

source = HDF5Source(sys.argv[1])
class_ids, example_ids = np.arange(8)[:, None], np.arange(12)[None]
children = []
for _ in range(4):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        found = source.gather(class_ids, example_ids)
        os.write(write, f"{found.astype(int).sum()} {source.recompute_fingerprint()}".encode())
        os._exit(0)
    os.close(write)
    children.append((child, read))
answers = {os.read(read, 1000).decode() for _, read in children}
statuses = [os.waitpid(child, 0)[1] for child, _ in children]
print(json.dumps([sorted(answers), statuses, source.recompute_fingerprint()]))
"""


def test_forked_processes_read_the_same_examples(tmp_path, source):
    write(tmp_path / "store.h5", {f"class{c}": coded_images(c, 12) for c in range(8)})
    result = run_python(FORKING, tmp_path / "store.h5")
    assert result.returncode == 0, result.stderr
    answers, statuses, fingerprint = json.loads(result.stdout)
    assert answers == [f"{source.examples.astype(int).sum()} {fingerprint}"]
    assert statuses == [0] * 4
    assert fingerprint == source.fingerprint


def test_gather_says_where_each_example_comes_from(source):
    class_ids, example_ids = np.array([[[5], [0]]]), np.array([[[3, 11], [7, 7]]])
    classes, examples = decode(source.gather(class_ids, example_ids).astype(np.float32) / np.float32(255))
    assert classes.tolist() == [[[5, 5], [0, 0]]]
    assert examples.tolist() == example_ids.tolist()


def test_sources_in_memory_do_not_need_h5py():
    program = "import sys; sys.modules['h5py'] = None\nfrom metabridge.sources import ArraySource; print('fine')"
    assert run_python(program).stdout == "fine\n"
