"""Omniglot's build path over archives made in the official format."""

import io
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metabridge.datasets import omniglot
from metabridge.datasets.benchmarks import build, store_path
from metabridge.datasets.omniglot import OMNIGLOT
from metabridge.sources import HDF5Source

SMALL1 = "images_background_small1"
REPOSITORY = Path(__file__).resolve().parents[2]

FIRST = "Balinese/character01/0001_01.png"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def origin(tmp_path):
    return tmp_path / "origin"


def quiet_build(root, source=None, variant="small1"):
    return HDF5Source(build(OMNIGLOT, root, variant, source, progress=False))


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# What is built -------------------------------------------------------------------------------------------


def test_a_store_holds_all_drawings_in_sorted_order(made, official, origin, root, drawings):
    official("small1", made().write_zip(origin))
    source = quiet_build(root, origin / f"{SMALL1}.zip")
    assert source.class_names == tuple(sorted({f"{SMALL1}/{Path(name).parent}" for name in drawings}))
    assert source.class_sizes.tolist() == [20] * 7
    assert source.example_shape == (28, 28, 1)
    assert source.dtype == np.uint8
    assert files_in(root) == ["small1.h5"]
    for position, name in enumerate(sorted(drawings)):
        if position % 20 < 2:  # the reference is slow
            expected = 255 - lanczos(unpacked_pixels(drawings[name]))
            found = source.examples[position, :, :, 0]
            assert np.abs(found.astype(int) - expected).max() <= 1, name
            assert np.mean(found == expected) > 0.99


def unpacked_pixels(content):
    """The 105×105 bits of a PNG as 0 and 255."""
    return np.array(Image.open(io.BytesIO(content)), dtype=bool) * 255.0


def lanczos(pixels):
    """Shrink 105×105 to 28×28 by the textbook three-lobed Lanczos filter, first along rows."""
    weights = lanczos_weights(105, 28)
    narrow = np.clip(np.rint(pixels @ weights.T), 0, 255)
    return np.clip(np.rint(weights @ narrow), 0, 255)


def lanczos_weights(old, new):
    scale = old / new
    weights = np.zeros((new, old))
    for row in range(new):
        for column in range(old):
            x = (column + 0.5 - (row + 0.5) * scale) / scale
            weights[row, column] = np.sinc(x) * np.sinc(x / 3) if abs(x) < 3 else 0.0
    return weights / weights.sum(axis=1, keepdims=True)


def test_ink_is_255_and_paper_0(made, official, origin, root, drawings):
    image = Image.new("1", (105, 105), 1)
    image.paste(0, (0, 0, 105, 30))
    file = io.BytesIO()
    image.save(file, "PNG")
    path = made(files={**drawings, FIRST: file.getvalue()}).write_zip(origin)
    official("small1", path)
    drawing = quiet_build(root, path).examples[0, :, :, 0]
    assert drawing[:6].min() > 250  # the filter rings a little beside an edge
    assert drawing[12:].max() < 5


def test_every_kind_of_source_gives_the_same_store(made, official, origin, tmp_path, server):
    path = made().write_zip(origin, "renamed.zip")
    zipped = made().write_zip(tmp_path / "zipped")
    path.write_bytes(zipped.read_bytes())
    unpacked = made().write_folder(tmp_path / "unpacked")
    url = server.serve(zipped.name, zipped.read_bytes())
    official("small1", zipped, urls=[url])
    fingerprints = set()
    for position, source in enumerate([path, zipped.parent, unpacked, unpacked.parent, None]):
        store = quiet_build(tmp_path / str(position), source)
        fingerprints.add(store.fingerprint)
        assert store.recompute_fingerprint() == store.fingerprint
        archives = store.provenance["archives"]
        assert archives == {
            zipped.name: "folder" if position in (2, 3) else OMNIGLOT.variants["small1"].archives[0].checksum
        }
    assert len(fingerprints) == 1
    assert store.provenance["variant"] == "small1"
    assert files_in(tmp_path / "4") == [zipped.name, "small1.h5"]


def test_a_folder_may_hold_what_systems_add(made, official, origin, root):
    folder = made().write_folder(origin)
    for name in (".DS_Store", "Greek/._character01.png", "notes.txt", "__MACOSX/Greek/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    official("small1", made().write_zip(origin / "zip"))
    assert len(quiet_build(root, folder)) == 7


def test_full_needs_both_archives(made, official, origin, root):
    halves = [made("images_background"), made("images_evaluation")]
    paths = [half.write_zip(origin / "zips") for half in halves]
    official("full", *paths)
    with pytest.raises(ValueError, match="must be a folder that holds all 2 archives"):
        quiet_build(root, paths[0], "full")
    halves[0].write_folder(origin / "half")
    with pytest.raises(FileNotFoundError, match=r"images_evaluation\.zip or the unpacked folder images_evaluation"):
        quiet_build(root, origin / "half", "full")
    assert files_in(root) == []
    halves[1].write_folder(origin / "half")
    fingerprints = {quiet_build(root / s, origin / s, "full").fingerprint for s in ("zips", "half")}
    assert len(fingerprints) == 1
    names = HDF5Source(store_path(OMNIGLOT, root / "zips", "full")).class_names
    assert [name.split("/")[0] for name in names] == ["images_background"] * 7 + ["images_evaluation"] * 7


def test_a_built_store_is_left_alone(made, official, origin, root, snapshot, capsys):
    path = made().write_zip(origin)
    official("small1", path)
    quiet_build(root, path)
    before = snapshot(root)
    assert build(OMNIGLOT, root, "small1", origin / "absent") == store_path(OMNIGLOT, root, "small1")
    assert "small1.h5 is built already (8-bit grey, Lanczos to 28x28, " in capsys.readouterr().err
    assert snapshot(root) == before


def test_a_store_that_does_not_open_is_replaced(made, official, origin, root):
    path = made().write_zip(origin)
    official("small1", path)
    store = build(OMNIGLOT, root, "small1", path, progress=False)
    content = store.read_bytes()
    store.write_bytes(content[:1000])
    assert len(quiet_build(root, path)) == 7
    assert files_in(root) == ["small1.h5"]


def test_progress_is_shown_on_standard_error(made, official, origin, root, capsys):
    path = made().write_zip(origin)
    official("small1", path)
    build(OMNIGLOT, root, "small1", path)
    shown = capsys.readouterr()
    assert "omniglot small1: 100%" in shown.err
    assert shown.out == ""


# What is refused -----------------------------------------------------------------------------------------


@pytest.fixture
def refuses(made, official, origin, root, snapshot):
    """Build from a source and demand an error, no file in the root and the source untouched."""

    def check(source, error, match, variant="small1"):
        before = snapshot(origin)
        with pytest.raises(error, match=match):
            build(OMNIGLOT, root, variant, source, progress=False)
        assert files_in(root) == []
        assert snapshot(origin) == before

    return check


def damage_truncate(content):
    return content[: len(content) // 2]


def damage_middle(content):
    middle = content.find(b"PK\x03\x04", len(content) // 2) + 200
    return content[:middle] + b"\xff" * 20 + content[middle + 20 :]


@pytest.mark.parametrize("damage", [damage_truncate, damage_middle, lambda _: b"<html>quota</html>", lambda _: b""])
def test_a_damaged_archive_fails_its_checksum(made, official, origin, refuses, damage):
    path = made().write_zip(origin)
    official("small1", path)
    path.write_bytes(damage(path.read_bytes()))
    message = rf"{SMALL1}\.zip is not the official .* expected .*It was left as it is"
    refuses(path, ValueError, message)
    refuses(origin, ValueError, message)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(damage_truncate, "is not a readable zip or tar archive"), (damage_middle, r"member '.*\.png' is damaged")],
)
def test_a_damaged_archive_with_the_right_checksum_is_refused_too(made, official, origin, refuses, damage, message):
    path = made().write_zip(origin)
    path.write_bytes(damage(path.read_bytes()))
    official("small1", path)
    refuses(path, ValueError, rf"{SMALL1}\.zip.*{message}")


def test_a_link_out_of_a_folder_is_refused(made, origin, refuses):
    folder = made().write_folder(origin)
    (folder / "link").symlink_to("/etc/passwd")
    refuses(folder, ValueError, "'link' is a symbolic link that leaves its folder")


def test_a_bomb_is_refused(made, official, origin, refuses, drawings):
    path = made(files={**drawings, FIRST: bytes(17 << 20)}).write_zip(origin)
    official("small1", path)
    refuses(path, ValueError, r"0001_01\.png' holds 17,825,792 bytes uncompressed")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no image", "it is no PNG image"),
        (b"", "it is no PNG image"),
        ("small", r"it must be of 105x105 pixels, got 100x105"),
        ("huge", "exceeds limit of .* pixels"),
        ("cut", "truncated|Truncated"),
    ],
)
def test_what_is_no_drawing_is_refused(made, official, origin, refuses, drawings, content, reason):
    match content:
        case "small":
            content = png_of(100, 105)
        case "huge":
            content = png_of(1, 1, announced=(60_000, 60_000))
        case "cut":
            content = drawings[FIRST][:-40]
    path = made(files={**drawings, FIRST: content}).write_zip(origin)
    official("small1", path)
    refuses(path, ValueError, rf"{SMALL1}\.zip: .*0001_01\.png' cannot be used \(.*{reason}.*; get the archive again")


def png_of(width, height, announced=None):
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    content = bytearray(file.getvalue())
    if announced:
        content[16:24] = announced[0].to_bytes(4, "big") + announced[1].to_bytes(4, "big")
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def test_a_folder_without_characters_is_refused(official, made, origin, refuses):
    official("small1", made().write_zip(origin / "zip"))
    (origin / SMALL1 / "Greek").mkdir(parents=True)
    refuses(origin, ValueError, "must hold the 7 characters of images_background_small1.zip, got 0")
    refuses(origin / SMALL1 / "Greek", FileNotFoundError, "does not; download the archive")


def test_a_character_with_a_drawing_too_few_is_refused(official, made, origin, refuses):
    official("small1", made().write_zip(origin / "zip"))
    folder = made().write_folder(origin)
    (folder / FIRST).unlink()
    refuses(folder, ValueError, "must have 20 drawings, 'images_background_small1/Balinese/character01' has 19")


def test_a_missing_character_is_refused(official, made, origin, refuses, drawings):
    official("small1", made().write_zip(origin / "zip"))
    kept = {name: content for name, content in drawings.items() if "Greek" not in name}
    refuses(made(files=kept).write_folder(origin), ValueError, "must hold the 7 characters .*, got 6")


def test_another_layout_is_refused(official, made, origin, refuses, drawings):
    path = made(files={**drawings, "stray.png": b""}).write_zip(origin)
    official("small1", path)
    refuses(
        path,
        ValueError,
        rf"must be named {SMALL1}/Alphabet/characterNN/NNNN_NN\.png, got '{SMALL1}/stray\.png'",
    )
    renamed = made("other").write_zip(origin).rename(origin / f"{SMALL1}.zip")
    official("small1", renamed)
    refuses(renamed, ValueError, "got 'other/")


def test_a_source_that_is_not_there_is_named(origin, refuses):
    refuses(origin / "absent.zip", FileNotFoundError, r"there is nothing at .*absent\.zip; check the path")


def test_an_unknown_variant_is_named(origin, refuses):
    refuses(
        None,
        ValueError,
        "`variant` of omniglot must be one of 'full', 'small1', 'small2', got 'small3'",
        variant="small3",
    )


def test_a_failed_download_leaves_nothing(made, official, origin, root, refuses, server):
    path = made().write_zip(origin)
    urls = [server.serve("gone", status=404), server.serve("cut", path.read_bytes()[:99], announced=9999)]
    official("small1", path, urls=urls)
    refuses(
        None,
        ConnectionError,
        rf"(?s)/gone: 404.*/cut: .*put it at .*downloads/{SMALL1}\.zip",
    )
    official("small1", path, urls=[server.serve("page", b"<html>log in</html>")])
    refuses(None, ValueError, "a web page arrived instead of the archive")


# What interrupts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_build_leaves_nothing(made, official, origin, root, monkeypatch, error):
    path = made().write_zip(origin)
    official("small1", path)
    prepare, calls = omniglot._prepare, []

    def interrupted(members, name):
        calls.append(name)
        if len(calls) == 70:
            raise error
        return prepare(members, name)

    with monkeypatch.context() as patch:
        patch.setattr(omniglot, "_prepare", interrupted)
        with pytest.raises(error):
            build(OMNIGLOT, root, "small1", path, progress=False)
    assert files_in(root) == []
    assert len(quiet_build(root, path)) == 7


PAUSING_BUILD = """
import dataclasses
import sys
from functools import partial
from metabridge.datasets import benchmarks, omniglot

root, source = sys.argv[1:]
read = partial(omniglot.read_omniglot, title="omniglot", characters={"images_background_small1": 7})
variants = omniglot.OMNIGLOT.variants
variants["small1"] = dataclasses.replace(variants["small1"], read=read)
prepare, seen = omniglot._prepare, []

def pausing(members, name):
    seen.append(name)
    if len(seen) == 70:
        print("half way", flush=True)
        sys.stdin.readline()
    return prepare(members, name)

omniglot._prepare = pausing
benchmarks.build(omniglot.OMNIGLOT, root, "small1", source, progress=False)
"""


def start_build(root, source):
    """A process that builds from an unpacked folder and waits for a line half way."""
    return subprocess.Popen(
        [sys.executable, "-c", PAUSING_BUILD, str(root), str(source)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_build_leaves_no_store(made, official, origin, root):
    official("small1", made().write_zip(origin / "zip"))
    folder = made().write_folder(origin)
    with start_build(root, folder) as process:
        assert process.stdout.readline() == "half way\n"
        process.kill()
    assert not store_path(OMNIGLOT, root, "small1").exists()
    (left,) = files_in(root)  # the docstring of `build` says so
    assert left.startswith(".")
    assert left.endswith(".part")
    assert len(quiet_build(root, folder)) == 7


def test_what_a_killed_second_build_left_is_removed_although_the_store_is_there(made, official, origin, root):
    official("small1", made().write_zip(origin / "zip"))
    folder = made().write_folder(origin)
    with start_build(root, folder) as process:
        assert process.stdout.readline() == "half way\n"
        fingerprint = quiet_build(root, folder).fingerprint
        process.kill()
    assert len(files_in(root)) == 2
    assert quiet_build(root).fingerprint == fingerprint
    assert files_in(root) == ["small1.h5"]


def test_space_is_asked_for_before_anything_is_downloaded(made, official, origin, root, server, monkeypatch):
    """For the store and for what is left of the archive."""
    path = made().write_zip(origin)
    size, store_bytes = path.stat().st_size, 136 * 20 * 28 * 28
    official("small1", path, urls=[server.serve(path.name, path.read_bytes())])
    usage = shutil.disk_usage(origin)
    part = root / "omniglot" / "downloads" / f".{path.name}.part"

    def refused(free, needed):
        monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=free))
        words = rf"small1\.h5 cannot .* need {needed:,} bytes on the disk of .*, and {free:,} are free; nothing was"
        with pytest.raises(OSError, match=words):
            quiet_build(root)
        assert server.requests == []

    refused(store_bytes + size - 1, store_bytes + size)
    assert not root.exists()
    part.parent.mkdir(parents=True)
    part.write_bytes(path.read_bytes()[:1000])
    refused(store_bytes + size - 1001, store_bytes + size - 1000)
    part.unlink()
    (part.parent / path.name).write_bytes(path.read_bytes())
    refused(store_bytes - 1, store_bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=store_bytes))
    assert len(quiet_build(root)) == 7


@pytest.mark.slow
def test_two_builds_at_once_both_succeed(made, official, origin, root, tmp_path):
    official("small1", made().write_zip(origin / "zip"))
    folder = made().write_folder(origin)
    with start_build(root, folder) as first, start_build(root, folder) as second:
        for process in (first, second):
            assert process.stdout.readline() == "half way\n"
        for process in (first, second):
            process.communicate("go on\n", timeout=30)
    assert (first.returncode, second.returncode) == (0, 0)
    assert files_in(root) == ["small1.h5"]
    source = HDF5Source(store_path(OMNIGLOT, root, "small1"))
    assert source.recompute_fingerprint() == quiet_build(tmp_path / "alone", folder).fingerprint
