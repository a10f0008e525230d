"""Sealed files of arrays: every name and dtype comes back, every damage is named, and a full disk leaves nothing."""

import contextlib
import errno
import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import coded_source, run_python

from metabridge.networks.parameters import load_parameters, save_parameters
from metabridge.sources import HDF5Source, save_source, write_store
from metabridge.sources.hdf5 import FormatVersionError
from metabridge.storage.arrays import read_arrays, write_arrays
from metabridge.storage.atomic import replacing, replacing_together
from metabridge.storage.seal import SEAL_BYTES, OtherKindError, write_seal

NAMES = ["head.weight", "a/b", "/", ".", "..", "%2F", "%2E", "%", "a b", "größe", "0", "%252F", "./a/.", "x" * 500]
DTYPES = ["?", "u1", "<i8", ">i4", "<f2", "<f4", ">f8", "<c8"]
DAMAGED = r"arrays\.h5 is not a readable kind \(.*\); take another copy, or write it again"


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def path(tmp_path):
    write_arrays(tmp_path / "arrays.h5", "kind", {"b": np.arange(6.0).reshape(2, 3), "a": np.array(7)})
    return tmp_path / "arrays.h5"


def test_every_name_comes_back_in_order(tmp_path):
    for names in (NAMES, NAMES[::-1]):
        write_arrays(tmp_path / "arrays.h5", "kind", {name: np.array(i) for i, name in enumerate(names)})
        found = read_arrays(tmp_path / "arrays.h5", "kind")
        assert [(name, int(value)) for name, value in found.items()] == [(name, i) for i, name in enumerate(names)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (0, 2), (2, 3, 1)])
def test_every_dtype_and_shape_comes_back(tmp_path, dtype, shape):
    array = (np.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).astype(dtype)
    write_arrays(tmp_path / "arrays.h5", "kind", {"a": array, "transposed": array.T})
    found = read_arrays(tmp_path / "arrays.h5", "kind")
    for name, expected in (("a", array), ("transposed", array.T)):
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)
        assert found[name].tobytes() == expected.tobytes()


def test_nothing_is_a_mapping_too(tmp_path):
    write_arrays(tmp_path / "new" / "folder" / "arrays.h5", "kind", {})
    assert read_arrays(tmp_path / "new" / "folder" / "arrays.h5", "kind") == {}


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({"a": np.ones(2), "": np.ones(2)}, ValueError, r"`arrays` must have names, got the empty one"),
        ({"a": np.ones(2), "b": np.array(["x"])}, TypeError, r"`arrays\['b'\]` must hold numbers, got <U1"),
        ({"a": np.array([None])}, TypeError, r"`arrays\['a'\]` must hold numbers, got object"),
    ],
)
def test_what_cannot_be_stored_leaves_the_old_file(path, arrays, error, message):
    before = path.read_bytes()
    with pytest.raises(error, match=message):
        write_arrays(path, "kind", arrays)
    assert path.read_bytes() == before
    assert left_in(path.parent) == ["arrays.h5"]


# Damage


def test_any_flipped_bit_is_named_wherever_it_is(path):
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=DAMAGED):
            read_arrays(path, "kind")
    path.write_bytes(content)
    assert list(read_arrays(path, "kind")) == ["b", "a"]


def test_a_file_of_another_length_is_named(path):
    content = path.read_bytes()
    for keep in [*range(0, len(content), 41), SEAL_BYTES, len(content) - 1]:
        path.write_bytes(content[:keep])
        with pytest.raises(ValueError, match=DAMAGED):
            read_arrays(path, "kind")
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match=r"it has [\d,]+ bytes, [\d,]+ were written"):
        read_arrays(path, "kind")


def test_damage_that_was_sealed_over_is_named_too(path):
    path.write_bytes(path.read_bytes()[:SEAL_BYTES] + bytes(3000))
    write_seal(path, "kind")
    with pytest.raises(ValueError, match=DAMAGED):
        read_arrays(path, "kind")


@pytest.mark.parametrize("reason", [errno.ENOMEM, errno.EIO, errno.EMFILE])
def test_what_may_pass_is_no_damage(path, monkeypatch, reason):
    def fail(*_, **__):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(h5py, "File", fail)
    with pytest.raises(OSError, match=os.strerror(reason)) as caught:
        read_arrays(path, "kind")
    assert caught.value.errno == reason


# Kinds


def test_a_store_is_no_parameters_and_parameters_are_no_store(tmp_path):
    store, parameters = tmp_path / "store.h5", tmp_path / "parameters.h5"
    save_source(coded_source([2, 3]), store, progress=False)
    save_parameters(parameters, {"a": np.ones(2)})
    with pytest.raises(OtherKindError, match=r"store\.h5 must hold 'parameters', it holds 'class source'"):
        load_parameters(store)
    with pytest.raises(FormatVersionError, match=r"parameters\.h5 must hold 'class source', it holds 'parameters'"):
        HDF5Source(parameters)
    assert len(HDF5Source(store)) == 2
    assert list(load_parameters(parameters)) == ["a"]


NO_FILES = {
    "a named pipe": lambda path: os.mkfifo(path),
    "a folder": lambda path: path.mkdir(),
    "a device": lambda path: path.symlink_to("/dev/null"),
}
"""What may be in a file's place → how it is made; a link is told from its target only where a file is to be put."""


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_neither_read_nor_replaced(tmp_path, kind):
    target = tmp_path / "arrays.h5"
    NO_FILES[kind](target)
    with pytest.raises(ValueError, match=rf"{target} must be a file, it is {kind}; remove it"):
        read_arrays(target, "kind")
    placed = "a symbolic link" if target.is_symlink() else kind
    message = rf"{target} is {placed}, where a file is to be put; remove it, or choose another path"
    with pytest.raises(FileExistsError, match=message):
        write_arrays(target, "kind", {"a": np.ones(2)})
    with pytest.raises(FileExistsError, match=message):
        write_store(target, ["a"], [1], (3,), np.uint8, iter([]), {})
    assert left_in(tmp_path) == ["arrays.h5"]


def test_a_link_is_read_and_not_replaced(path):
    link = path.with_name("link.h5")
    link.symlink_to(path)
    assert read_arrays(link, "kind")["a"] == 7
    with pytest.raises(FileExistsError, match=r"link\.h5 is a symbolic link, where a file is to be put"):
        write_arrays(link, "kind", {})
    assert link.is_symlink()


def test_hdf5_without_a_seal_is_refused(tmp_path):
    with h5py.File(tmp_path / "parameters.h5", "w") as file:
        file["a"] = np.ones(2)
    with pytest.raises(OtherKindError, match=r"parameters\.h5 must hold 'parameters', it holds HDF5 without a seal"):
        load_parameters(tmp_path / "parameters.h5")


# Writers that do not come to their end

FULL = """
import resource, sys
import numpy as np
from metabridge.networks.parameters import save_parameters

path, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    save_parameters(path, {"a": np.ones(100_000), "b": np.zeros(3)})
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [0, 400, 3_000, 500_000, 800_000])
def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path, limit):
    path = tmp_path / "parameters.h5"
    for expected in ([], ["parameters.h5"]):
        result = run_python(FULL, path, limit)
        assert (result.returncode, result.stderr) == (0, "")
        assert "parameters.h5 cannot be stored (File too large): it needs 80" in result.stdout
        assert "nothing was kept. Free some space or choose another folder" in result.stdout
        assert left_in(tmp_path) == expected
        save_parameters(path, {"old": np.ones(2)})
    assert list(load_parameters(path)) == ["old"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_is_full_at_the_last_moment_leaves_the_old_file(path, monkeypatch, step):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": ("pathlib.Path.replace",)}[step], full)
    with pytest.raises(OSError, match=r"arrays\.h5 cannot be stored \(No space left on device\)"):
        write_arrays(path, "kind", {"c": np.ones(3)})
    assert list(read_arrays(path, "kind")) == ["b", "a"]
    assert left_in(path.parent) == ["arrays.h5"]


KILLED = """
import os, signal, sys
import numpy as np
from metabridge.storage.arrays import write_arrays

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

os.fsync = kill
write_arrays(sys.argv[1], "kind", {"c": np.ones(3)})
"""


def test_what_a_killed_writer_left_is_removed_by_the_next(path):
    assert run_python(KILLED, path).returncode == -signal.SIGKILL
    assert list(read_arrays(path, "kind")) == ["b", "a"]
    assert len(left_in(path.parent)) == 2
    write_arrays(path, "kind", {"d": np.ones(3)})
    assert list(read_arrays(path, "kind")) == ["d"]
    assert left_in(path.parent) == ["arrays.h5"]


def test_an_error_inside_leaves_the_old_file(path):
    before = path.read_bytes()

    def write_half():
        with replacing(path, 10) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError("in between")

    with pytest.raises(RuntimeError, match="in between"):
        write_half()
    assert path.read_bytes() == before
    assert left_in(path.parent) == ["arrays.h5"]


def write_together(folder, names, content):
    with replacing_together(folder, ["a", "b", "c"], "last") as new:
        for name in names:
            (new / name).write_text(content)


MOVES = 8
"""More than the files that are removed and moved."""


@pytest.mark.parametrize("killed_at", range(MOVES))
def test_files_of_two_writers_never_stand_side_by_side(tmp_path, monkeypatch, killed_at):
    """At whatever removal or move the writer dies; and where the last file is, the others are."""
    folder = tmp_path / "together"
    write_together(folder, ["a", "b", "c", "last"], "old")
    steps = iter(range(100))

    def dying(method):
        def call(path, *arguments, **options):
            moved = folder in path.parents and not path.name.endswith(".part")
            if moved and next(steps) == killed_at:
                raise KeyboardInterrupt("killed")
            return method(path, *arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("unlink", "replace"):
            patch.setattr(Path, name, dying(getattr(Path, name)))
        with pytest.raises(KeyboardInterrupt, match="killed") if killed_at < MOVES - 1 else contextlib.nullcontext():
            write_together(folder, ["a", "b", "last"], "new")
    content = {path.name: path.read_text() for path in folder.iterdir()}
    assert len(set(content.values())) <= 1
    if "last" in content:
        assert content.keys() == ({"a", "b", "c", "last"} if content["last"] == "old" else {"a", "b", "last"})
    write_together(folder, ["a", "last"], "newest")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a": "newest", "last": "newest"}


def test_a_killed_writer_s_folder_is_removed_by_the_next(tmp_path):
    orphan = tmp_path / f".files.{'0' * 32}.part"
    orphan.touch()
    orphan.with_suffix(".files").mkdir()
    (orphan.with_suffix(".files") / "a").touch()
    write_together(tmp_path, ["last"], "new")
    assert left_in(tmp_path) == ["last"]
