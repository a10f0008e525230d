"""The stores below a root: those of benchmarks, those of one's own, and what can be told of each without reading it."""

import os
import re

import h5py
import numpy as np
import pytest
from helpers import every
from PIL import Image

from metabridge.datasets.benchmarks import build, store_path
from metabridge.datasets.catalogue import BENCHMARKS
from metabridge.datasets.helpers import cub
from metabridge.datasets.stores import (
    build_own_store,
    find_benchmark,
    inspect_store,
    load_own_store,
    own_store,
    own_stores,
    verify_store,
)
from metabridge.sources import ArraySource, HDF5Source, save_source
from metabridge.sources.lazy import UnequalExamplesError

CUB = BENCHMARKS["cub"]


@pytest.fixture
def folder(tmp_path):
    """Two classes of three grey 8×8 images."""
    for name in ("circle", "square"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(np.full((8, 8), 50 * number, np.uint8)).save(tmp_path / "mine" / name / f"{number}.png")
    return tmp_path / "mine"


@pytest.fixture
def store(tmp_path, folder):
    return build_own_store("shapes", tmp_path / "root", folder)


def test_a_store_of_one_s_own_is_found_by_its_name(tmp_path, folder, store):
    root = tmp_path / "root"
    other = build_own_store("more.shapes-2", root, folder, resize=4, mode="RGB")
    assert own_store("shapes", root) == store == root / "shapes" / "shapes.h5"
    assert own_stores(root) == {"more.shapes-2": other, "shapes": store}
    assert HDF5Source(other).example_shape == (4, 4, 3)


def test_benchmarks_and_other_files_are_no_stores_of_one_s_own(tmp_path, store):
    root = tmp_path / "root"
    for path in (root / "cub" / "cub.h5", root / "omniglot" / "full.h5", root / "shapes" / "copy.h5"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(store.read_bytes())
    assert own_stores(root) == {"shapes": store}
    assert [own_store(name, root) for name in ("cub", "full", "copy", "../root/shapes", "nothing")] == [None] * 5
    assert own_stores(tmp_path / "nowhere") == {}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cub", "`dataset` must be a name of your own, 'cub' is that of a benchmark"),
        ("sinusoid", "`dataset` must be a name of your own, 'sinusoid' is that of a benchmark"),
        ("..", r"`dataset` must be a name of letters, digits, .* got '\.\.'"),
        ("a/b", "`dataset` must be a name of letters, digits, .* got 'a/b'"),
    ],
)
def test_a_name_that_is_not_one_s_own_builds_nothing(tmp_path, folder, name, message):
    with pytest.raises(ValueError, match=message):
        build_own_store(name, tmp_path / "root", folder)
    assert not (tmp_path / "root").exists()


def test_a_store_is_never_overwritten(tmp_path, folder, store):
    before = store.read_bytes()
    with pytest.raises(FileExistsError, match=r"exists already; .* `metabridge build shapes --root .* --verify`"):
        build_own_store("shapes", tmp_path / "root", folder, resize=4)
    assert store.read_bytes() == before


def test_unequal_images_need_a_size_and_a_mode(tmp_path, folder):
    Image.new("RGBA", (20, 20)).save(folder / "square" / "9.png")
    with pytest.raises(UnequalExamplesError, match=r"9\.png"):
        build_own_store("shapes", tmp_path / "root", folder)
    assert own_stores(tmp_path / "root") == {}


def test_facts_of_a_built_store(store):
    facts = inspect_store(store)
    assert facts[:5] == (store, "built", store.stat().st_size, {"circle": 3, "square": 3}, (8, 8, 1))
    assert facts.fingerprint == HDF5Source(store).fingerprint
    assert [facts.count(names) for names in ((), ("square",), ("circle", "square"), ("cat",))] == [0, 3, 6, 0]


def test_facts_of_a_store_that_is_not_built_are_its_variant_s(tmp_path):
    variant = CUB.variants["full"]
    path = store_path(CUB, tmp_path)
    assert inspect_store(path, CUB) == (path, "not built", variant.num_bytes, {}, variant.example_shape, "", "")
    path.mkdir(parents=True)
    assert inspect_store(path, CUB).state == "not built"
    assert inspect_store(path) == (path, "not built", 0, {}, (), "", "")


def test_facts_of_a_store_that_cannot_be_read_are_what_to_do(store):
    content = store.read_bytes()
    store.write_bytes(content[:-9])
    damaged = inspect_store(store)
    assert (damaged.state, damaged.class_sizes, damaged.fingerprint) == ("damaged", {}, "")
    assert "build it again" in damaged.note
    with h5py.File(store, "w") as file:
        file.attrs.update({"format": "metabridge class source", "format_version": 1})
    assert inspect_store(store, CUB, "full")[1:5] == ("other format", store.stat().st_size, {}, (84, 84, 3))


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_facts_of_a_store_that_cannot_be_looked_at_are_the_reason(store, monkeypatch, error):
    """One such store must not hide the others."""

    def fail(*_):
        raise error

    monkeypatch.setattr("metabridge.datasets.stores.HDF5Source", fail)
    assert inspect_store(store)[1:] == ("unreadable", store.stat().st_size, {}, (), "", str(error))
    assert inspect_store(store, CUB)[1:5] == ("unreadable", store.stat().st_size, {}, (84, 84, 3))


def cub_store(root, **changes):
    """A store under the name of CUB's, with facts and a form like those of CUB's, but for `changes`."""
    facts = {"benchmark": "cub", "variant": "full", "shape": (84, 84, 3), "dtype": np.uint8} | changes
    source = ArraySource.from_classes({"a": np.zeros((1, *facts.pop("shape")), facts.pop("dtype"))})
    return save_source(source, store_path(CUB, root), facts, progress=False).path


OTHER_CONTENT = {
    "another benchmark": {"benchmark": "miniimagenet"},
    "another variant": {"variant": "small"},
    "one of unknown origin": {"benchmark": None},
    "another shape": {"shape": (28, 28, 1)},
    "another dtype": {"dtype": np.float32},
}


@pytest.mark.parametrize("other", OTHER_CONTENT)
def test_a_store_of_something_else_under_a_benchmark_s_name_is_refused(tmp_path, other):
    path = cub_store(tmp_path)
    assert build(CUB, tmp_path, progress=False) == path
    assert inspect_store(path, CUB).state == "built"
    path.unlink()
    path = cub_store(tmp_path, **OTHER_CONTENT[other])
    content = path.read_bytes()
    words = rf"{path} must hold the benchmark 'cub', variant 'full', of examples \(84, 84, 3\) uint8; it holds .*: move"
    for download in (True, False):
        with pytest.raises(ValueError, match=words):
            cub(tmp_path, 1, 1, meta_train=True, download=download)
    with pytest.raises(ValueError, match=words):
        build(CUB, tmp_path, progress=False)
    assert re.match(words, inspect_store(path, CUB).note)
    assert inspect_store(path, CUB)[1:5] == ("other content", len(content), {}, (84, 84, 3))
    assert path.read_bytes() == content


PLACES = {
    "the store": lambda root: store_path(CUB, root),
    "the archive": lambda root: root / "cub" / "downloads" / CUB.variants["full"].archives[0].name,
    "the partial download": lambda root: root / "cub" / "downloads" / f".{CUB.variants['full'].archives[0].name}.part",
}


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("a folder", lambda path: path.mkdir()),
        ("a named pipe", lambda path: os.mkfifo(path)),
        ("a symbolic link", lambda path: path.symlink_to("nowhere")),
        ("a symbolic link", lambda path: path.symlink_to("/dev/full")),
    ],
)
@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_fetched_where_something_is_in_the_way(tmp_path, monkeypatch, place, kind, make):
    monkeypatch.setattr("metabridge.datasets.benchmarks.fetch", lambda *_: pytest.fail("the download began"))
    path = PLACES[place](tmp_path)
    path.parent.mkdir(parents=True)
    make(path)
    with pytest.raises(FileExistsError, match=rf"{path} is {kind}, where a file is to be put; remove it"):
        build(CUB, tmp_path, progress=False)
    with pytest.raises(pytest.fail.Exception, match="the download began"):
        build(CUB, tmp_path / "elsewhere", progress=False)


def test_damage_of_a_benchmark_s_store_is_found_unless_that_is_switched_off(tmp_path):
    names = next(iter(CUB.variants["full"].splits.values()))(())["test"]
    source = ArraySource.from_classes({name: np.ones((2, 84, 84, 3), np.uint8) for name in names})
    facts = {"benchmark": "cub", "variant": "full"}
    path = save_source(source, store_path(CUB, tmp_path), facts, progress=False).path
    content = bytearray(path.read_bytes())
    content[content.index(bytes([1] * 100))] = 3
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: the examples of class"):
        cub(tmp_path, 1, len(names), meta_test=True).episodes([0])
    assert len(cub(tmp_path, 1, len(names), meta_test=True, check_examples=False).episodes([0])) == 2


def test_verifying_finds_one_changed_byte(store):
    verify_store(store)
    content = bytearray(store.read_bytes())
    content[content.index(bytes([50] * 64))] ^= 1  # in the image of grey 50
    store.write_bytes(content)
    with pytest.raises(ValueError, match=r"holds other examples than were written.*build it again"):
        verify_store(store)


def test_episodes_of_one_s_own(store):
    batch = load_own_store(store, shots=1, test_shots=2).episodes([0])
    assert [batch[split][0].shape for split in ("train", "test")] == [(1, 2, 8, 8, 1), (1, 4, 8, 8, 1)]
    with pytest.raises(ValueError, match="`num_classes_per_task`"):
        load_own_store(store, ways=3)


def test_a_benchmark_is_found_by_its_name(tmp_path, store):
    root = tmp_path / "root"
    assert every(find_benchmark(name, root) is benchmark for name, benchmark in BENCHMARKS.items())
    for name, message in {
        "sinusoid": "'sinusoid' is computed",
        "miniimagnet": r"or a store of yours below .* did you mean 'miniimagenet'",
        "shpes": r"did you mean 'shapes'\?",
        "zzz": r"got 'zzz'\.",
    }.items():
        with pytest.raises(ValueError, match=message):
            find_benchmark(name, root)
