"""Tiered-ImageNet from a user's own copy of ILSVRC-2012's training photographs: few and small ones here."""

import dataclasses
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from helpers import every
from PIL import Image
from test_tiered_imagenet import SPLITS, TABLE
from test_tiered_imagenet import make as make_pickles
from test_tiered_imagenet import write as write_pickles

from metabridge.datasets import TieredImagenet, benchmarks, ilsvrc
from metabridge.datasets.ilsvrc import CLASS_SIZES, PLACES, is_ilsvrc_folder, read_ilsvrc
from metabridge.datasets.tieredimagenet import TIERED_IMAGENET, read_tiered_ilsvrc, read_tiered_imagenet
from metabridge.sources import HDF5Source

pytestmark = pytest.mark.xdist_group("ilsvrc")

FEW = {"train": ["n00000003", "n00000001"], "val": ["n00000004"], "test": ["n00000002"]}
SIZES = {"n00000001": 5, "n00000002": 1, "n00000003": 12, "n00000004": 7}
COUNTS = {"train": 17, "val": 7, "test": 1}


def photograph(path, rng, mode="RGB", form="JPEG"):
    width, height = rng.integers(20, 140, 2)
    channels = Image.new(mode, (1, 1)).getbands()
    shape = (height, width, len(channels)) if len(channels) > 1 else (height, width)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, shape, np.uint8), mode=None if mode != "CMYK" else mode).save(path, form)


def fill(folder, sizes, seed=0):
    """Photographs whose names' order is not that of their making; other files and folders beside them."""
    rng = np.random.default_rng(seed)
    for wnid, size in sizes.items():
        for number in rng.permutation(size):
            photograph(folder / wnid / f"{wnid}_{number}.JPEG", rng)
        (folder / wnid / "list.txt").write_text("none")
        (folder / wnid / f"._{wnid}_0.JPEG").write_bytes(b"macOS")
    (folder / "readme.txt").write_text("none")
    return folder


def expected(path):
    """What a photograph becomes, by Pillow alone."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((84, 84), Image.Resampling.BICUBIC))


@pytest.fixture
def few(tmp_path):
    return fill(tmp_path / "train", SIZES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All 608 classes and one of the 392 others, in a folder `train`; and how many photographs each meta-split has."""
    sizes = {wnid: 1 + i % 2 for split in SPLITS for i, wnid in enumerate(TABLE[split])}
    folder = fill(tmp_path_factory.mktemp("whole") / "train", sizes | {"n03126707": 3})
    return folder, {split: sum(sizes[wnid] for wnid in TABLE[split]) for split in SPLITS}


def with_totals(totals, class_sizes=(1, 2)):
    """The benchmark with so many photographs of each meta-split, and of each class."""
    read = partial(read_tiered_ilsvrc, examples=totals, class_sizes=class_sizes)
    variant = dataclasses.replace(TIERED_IMAGENET.variants["ilsvrc"], read=read)
    return dataclasses.replace(TIERED_IMAGENET, variants=TIERED_IMAGENET.variants | {"ilsvrc": variant})


def read(folder, counts=COUNTS, workers=2, class_sizes=(1, 12)):
    with read_ilsvrc(folder, "Few", FEW, counts, 84, False, workers, class_sizes) as content:
        return content, np.concatenate(list(content.blocks))


@pytest.mark.parametrize("workers", [None, 1, 2, 7])
def test_photographs_come_by_meta_split_wnid_and_name(workers, few):
    content, images = read(few, workers=workers)
    wnids = ["n00000001", "n00000003", "n00000004", "n00000002"]
    assert content.class_names == wnids
    assert content.class_sizes == [SIZES[wnid] for wnid in wnids]
    assert (content.example_shape, content.dtype) == ((84, 84, 3), np.uint8)
    paths = [path for wnid in wnids for path in sorted(few.glob(f"{wnid}/{wnid}*.JPEG"))]
    assert [path.name for path in paths[5:8]] == [f"n00000003_{n}.JPEG" for n in (0, 1, 10)]  # as strings
    np.testing.assert_array_equal(images, np.stack([expected(path) for path in paths]))


@pytest.mark.parametrize(("mode", "form"), [("CMYK", "JPEG"), ("L", "JPEG"), ("RGB", "PNG"), ("RGBA", "PNG")])
def test_what_ilsvrc_has_besides_rgb_jpeg_files_is_accepted(mode, form, few):
    """Some of its files are CMYK or grey, and one is a PNG file in spite of its name."""
    path = few / "n00000002" / "n00000002_0.JPEG"
    photograph(path, np.random.default_rng(1), mode, form)
    with Image.open(path) as image:
        assert (image.mode, image.format) == (mode, form)
    np.testing.assert_array_equal(read(few)[1][-1], expected(path))


@pytest.mark.slow
@pytest.mark.parametrize("place", [*PLACES, "link"])
def test_the_store_is_the_same_wherever_the_class_folders_are(place, whole, tmp_path):
    folder, totals = whole
    given = tmp_path / "given"
    if place == ".":
        given = folder
    elif place == "link":
        given.mkdir()
        for path in folder.iterdir():  # as on clusters: folders elsewhere, and some files of one class elsewhere
            (given / path.name).symlink_to(path)
        linked = given / TABLE["train"][1]
        linked.unlink()
        linked.mkdir()
        for path in (folder / linked.name).iterdir():
            (linked / path.name).symlink_to(path)
        given, target = tmp_path / "given link", given
        given.symlink_to(target)
    else:
        (given / place).parent.mkdir(parents=True)
        (given / place).symlink_to(folder)
        (given / "val" / TABLE["val"][0]).mkdir(parents=True)
    assert is_ilsvrc_folder(given)
    store = HDF5Source(benchmarks.build(with_totals(totals), tmp_path / "root", "ilsvrc", given, progress=False))
    assert store.path == tmp_path / "root" / "tieredimagenet" / "ilsvrc.h5"
    assert list(store.class_names) == [wnid for split in SPLITS for wnid in sorted(TABLE[split])]
    assert store.class_sizes.sum() == sum(totals.values())
    assert store.provenance["archives"] == {given.resolve().name: "folder"}
    assert store.provenance["variant"] == "ilsvrc"
    assert "OpenCV" in store.provenance["preparation"]
    assert "decoded by Pillow" in store.provenance["preparation"]
    last = folder / store.class_names[-1]
    rows = np.arange(store.class_sizes[-1])
    found = store.gather(np.full(len(rows), 607), rows)
    np.testing.assert_array_equal(found, [expected(path) for path in sorted(last.glob("n*.JPEG"))])
    with read_tiered_ilsvrc([folder], False, totals, (1, 2)) as content:
        np.testing.assert_array_equal(np.concatenate(list(content.blocks)), store.examples)


def test_both_variants_are_built_and_read_side_by_side(whole, tmp_path, monkeypatch, capsys):
    folder, totals = whole
    members, images, published = make_pickles(0)
    benchmark = with_totals(totals)
    full = dataclasses.replace(benchmark.variants["full"], read=partial(read_tiered_imagenet, examples=published))
    benchmark = dataclasses.replace(benchmark, variants=benchmark.variants | {"full": full})
    monkeypatch.setattr(TieredImagenet, "benchmark", benchmark)
    root = tmp_path / "root"
    sources = {"full": write_pickles(members, tmp_path), "ilsvrc": folder}
    for variant, source in sources.items():
        benchmarks.build(benchmark, root, variant, source, progress=False)
    datasets = {variant: TieredImagenet(root, 5, meta_test=True, variant=variant) for variant in sources}
    assert datasets["full"].source.fingerprint != datasets["ilsvrc"].source.fingerprint
    assert TieredImagenet(root, 5, meta_test=True).source.fingerprint == datasets["full"].source.fingerprint
    wnid = sorted(TABLE["test"])[0]
    assert every(each.source.class_names[0] == wnid for each in datasets.values())
    (first, *_) = sorted((folder / wnid).glob("n*.JPEG"))
    by_variant = {"full": images[wnid][0], "ilsvrc": expected(first)}
    for variant, pixels in by_variant.items():
        np.testing.assert_array_equal(datasets[variant].source.gather(np.array([0]), np.array([0]))[0], pixels)
    capsys.readouterr()
    benchmarks.build(benchmark, root, "ilsvrc")
    assert "is built already (decoded by Pillow" in capsys.readouterr().err


def test_each_variant_says_what_it_is_made_of(few, tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path} must hold the pickles .* add `--variant ilsvrc`"):
        benchmarks.build(TIERED_IMAGENET, tmp_path / "root", source=tmp_path, progress=False)
    pickles = write_pickles({"train_labels.pkl": b""}, tmp_path / "pickles")
    for path in (pickles, pickles / "train_labels.pkl"):
        with pytest.raises(ValueError, match=rf"{path} must be a folder with .*leave out `--variant ilsvrc`"):
            benchmarks.build(TIERED_IMAGENET, tmp_path / "root", "ilsvrc", path, progress=False)
    with pytest.raises(FileNotFoundError, match="there is nothing at"):
        benchmarks.build(TIERED_IMAGENET, tmp_path / "root", "ilsvrc", tmp_path / "none", progress=False)
    assert not (tmp_path / "root").exists()


def test_a_photograph_of_another_class_is_refused_by_name(few):
    """One is missing and another there, so that the numbers are right."""
    (few / "n00000003" / "n00000003_3.JPEG").rename(few / "n00000001" / "n00000003_3.JPEG")
    words = (
        r"n00000001 must hold no \*\.JPEG files but ILSVRC-2012's n00000001_NUMBER\.JPEG, got 'n00000003_3\.JPEG'; take"
    )
    with pytest.raises(ValueError, match=words):
        read(few)


@pytest.mark.parametrize(
    "name", ["holiday.JPEG", "n00000001_3.JPEG.JPEG", "n00000001_x.JPEG", "n00000001_.JPEG", "N00000001_77.JPEG"]
)
def test_a_photograph_of_no_class_is_refused_by_name(name, few):
    (few / "n00000003" / "n00000003_3.JPEG").rename(few / "n00000001" / name)
    with pytest.raises(ValueError, match=rf"got '{name}'"):
        read(few)


def test_classes_have_as_many_photographs_as_a_class_of_ilsvrc_can_have(few):
    assert CLASS_SIZES == (732, 1300)
    reason = (
        r"17 photographs of the 2 meta-train classes of Few, got 17 \(every class has {} there, but {} has {}\); make"
    )
    for class_sizes, words in {(1, 11): ("1 to 11", "n00000003", 12), (6, 12): ("6 to 12", "n00000001", 5)}.items():
        with pytest.raises(ValueError, match=reason.format(*words)):
            read(few, class_sizes=class_sizes)
    with (
        pytest.raises(ValueError, match=r"every class has 732 to 1,300 there, but n00000001 has 5, n00000003 has 12\)"),
        read_ilsvrc(few, "Few", FEW, COUNTS, 84, False),
    ):
        pass


def test_other_classes_are_never_looked_into(few, monkeypatch):
    """ImageNet has 392 more. Nor is any folder listed twice."""
    fill(few, {"n00000009": 2})
    listed, scandir = [], os.scandir

    def note(path):
        listed.append(Path(path).name)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", note)
    content, _ = read(few)
    assert sorted(listed) == sorted(content.class_names) == sorted(SIZES)


def remove(folder):
    shutil.rmtree(folder / "n00000003")


def empty(folder):
    for path in folder.glob("n00000003/*"):
        path.unlink()


def broken_link(folder):
    remove(folder)
    (folder / "n00000003").symlink_to(folder / "disk that is not mounted")


def no_folder(folder):
    remove(folder)
    (folder / "n00000003").write_text("none")


def one_less(folder):
    (folder / "n00000004" / "n00000004_3.JPEG").unlink()


def one_more(folder):
    photograph(folder / "n00000002" / "n00000002_99.JPEG", np.random.default_rng(0))


def nothing(folder):
    for path in folder.glob("n*"):
        shutil.rmtree(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *(
            (change, r"hold the 17 photographs of the 2 meta-train classes of Few, got 5 \(missing or .*: n00000003\);")
            for change in (remove, empty, broken_link, no_folder)
        ),
        (nothing, r"the 17 photographs of the 2 meta-train classes of Few, got 0 \(.*: n00000001, n00000003\);"),
        (one_less, r"the 7 photographs of the 1 meta-val classes of Few, got 6 \(no class folder is missing"),
        (one_more, r"the 1 photographs of the 1 meta-test classes of Few, got 2 \(there are files that are not ILSV"),
    ],
)
def test_incomplete_folders_are_refused_before_a_photograph_is_decoded(change, words, few, monkeypatch):
    change(few)
    monkeypatch.setattr(ilsvrc, "decode", None)
    with pytest.raises(ValueError, match=words) as caught:
        read(few)
    assert str(caught.value).startswith(f"{few} must hold")
    assert "make it what ILSVRC-2012's training archive" in str(caught.value)


def test_a_missing_class_is_refused_although_the_count_is_right(few):
    remove(few)
    with pytest.raises(ValueError, match="n00000003"):
        read(few, COUNTS | {"train": 5})


def test_many_missing_classes_are_counted(whole, tmp_path):
    (tmp_path / TABLE["val"][0]).mkdir()
    with (
        pytest.raises(ValueError, match=r"got 0 \(missing .*: n\d+(, n\d+){4} and 346 more\);"),
        read_tiered_ilsvrc([tmp_path], False, whole[1]),
    ):
        pass


def cut_short(path):
    photograph(path, np.random.default_rng(0))
    path.write_bytes(path.read_bytes()[:-400])


def gif(path):
    Image.new("L", (90, 90)).save(path, "GIF")


def text(path):
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1")


def dangling(path):
    path.unlink()
    path.symlink_to("nowhere")


def no_file(path):
    path.unlink()
    path.mkdir()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_short, "truncated.*; replace it by ILSVRC-2012's file"),
        (gif, "it is no JPEG or PNG image"),
        (text, "it is no JPEG or PNG image"),
        (dangling, "No such file.*; check the disk"),
        (no_file, "must be a file, it is a folder"),
    ],
)
@pytest.mark.parametrize("workers", [1, 4])
def test_a_damaged_photograph_is_named_and_nothing_is_kept(damage, words, workers, few, tmp_path, monkeypatch):
    wnid = sorted(TABLE["train"])[0]
    monkeypatch.setattr(ilsvrc, "_processors", lambda: workers)
    shutil.rmtree(few)
    sizes = {wnid: 1 for split in SPLITS for wnid in TABLE[split]}
    path = fill(few, sizes | {wnid: 9}) / wnid / f"{wnid}_5.JPEG"
    damage(path)
    totals = {"train": 359, "val": 97, "test": 160}
    threads = threading.active_count()
    with pytest.raises(ValueError, match=rf"{few}.*{wnid}/{wnid}_5\.JPEG.*{words}"):
        benchmarks.build(with_totals(totals, (1, 9)), tmp_path / "root", "ilsvrc", few, progress=False)
    assert not [path for path in (tmp_path / "root").rglob("*") if path.is_file()]
    assert threading.active_count() == threads


@pytest.fixture
def counted(monkeypatch):
    """How many photographs were given to the threads."""
    given, submit = [], ThreadPoolExecutor.submit

    def count(self, call, *arguments):
        given.append(arguments)
        return submit(self, call, *arguments)

    monkeypatch.setattr(ThreadPoolExecutor, "submit", count)
    return given


@pytest.mark.parametrize("workers", [1, 2])
def test_few_photographs_are_pending(workers, few, counted):
    with read_ilsvrc(few, "Few", FEW, COUNTS, 84, False, workers, (1, 12)) as content:
        assert not counted
        for taken, _ in enumerate(content.blocks):
            assert len(counted) == min(taken + 4 * workers, 25)
    assert len(counted) == 25


def test_as_many_photographs_are_decoded_at_once_as_there_are_threads(few, monkeypatch):
    """Each waits for two others; no fourth one begins."""
    barrier, running, most = threading.Barrier(3), [], []

    def decode(*arguments):
        running.append(arguments)
        most.append(len(running))
        barrier.wait(60)
        running.pop()
        return np.zeros((84, 84, 3), np.uint8)

    monkeypatch.setattr(ilsvrc, "decode", decode)
    sizes = {"n00000001": 6, "n00000003": 12, "n00000004": 7, "n00000002": 2}  # 27, a multiple of 3
    assert len(read(fill(few, sizes), {"train": 18, "val": 7, "test": 2}, workers=3)[1]) == 27
    assert max(most) == 3


def test_an_interruption_ends_all_threads_at_once(few, counted, monkeypatch):
    """What runs is waited for, what waits is cancelled."""
    decoded, decode, started, go = [], ilsvrc.decode, threading.Event(), threading.Event()
    shutdown = ThreadPoolExecutor.shutdown

    def second_waits(content, name, *arguments):
        if decoded:
            started.set()
            assert go.wait(60)
        decoded.append(name)
        return decode(content, name, *arguments)

    def let_go(self, wait=True, *, cancel_futures=False):
        shutdown(self, wait=False, cancel_futures=cancel_futures)
        go.set()
        shutdown(self, wait=wait)

    monkeypatch.setattr(ilsvrc, "decode", second_waits)
    monkeypatch.setattr(ThreadPoolExecutor, "shutdown", let_go)
    threads = threading.active_count()

    def interrupted():
        with read_ilsvrc(few, "Few", FEW, COUNTS, 84, False, 1, (1, 12)) as content:
            for _ in content.blocks:
                assert started.wait(60)
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        interrupted()
    assert (len(counted), len(decoded)) == (4, 2)
    assert threading.active_count() == threads


def test_progress_is_shown_by_image(few, capsys):
    with read_ilsvrc(few, "Few", FEW, COUNTS, 84, True, class_sizes=(1, 12)) as content:
        assert len(list(content.blocks)) == 25
    shown = capsys.readouterr()
    assert "Few: list of files: 100%" in shown.err
    assert "25/25" in shown.err
    assert not shown.out


def test_a_folder_with_neither_is_refused(tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "images" / "n01440764.tar").write_bytes(b"")
    assert not is_ilsvrc_folder(tmp_path)
    for reader, words in (
        (read_tiered_imagenet, r"must hold the pickles of tiered-imagenet\.tar"),
        (read_tiered_ilsvrc, "must be a folder with ILSVRC-2012's training photographs, one folder per wnid"),
    ):
        with pytest.raises(ValueError, match=words), reader([tmp_path], False):
            pass


def test_class_folders_in_an_unknown_place_are_not_listed(few, tmp_path, monkeypatch):
    """They may hold a million files."""
    few.rename(tmp_path / "elsewhere")
    walked, scandir = [], os.scandir

    def note(path):
        walked.append(Path(path).name)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", note)
    with pytest.raises(ValueError, match="must hold the pickles"), read_tiered_imagenet([tmp_path], False):
        pass
    assert "elsewhere" in walked
    with pytest.raises(ValueError, match="must be a folder with"), read_tiered_ilsvrc([tmp_path], False):
        pass
    assert not [name for name in walked if name.startswith("n0")]


def test_a_folder_with_nothing_but_links_is_ilsvrc(few, tmp_path):
    linked = tmp_path / "linked"
    linked.mkdir()
    for wnid in SIZES:
        (linked / wnid).symlink_to(few / wnid)
    assert is_ilsvrc_folder(linked)
    np.testing.assert_array_equal(read(linked)[1], read(few)[1])


def test_neither_files_nor_other_folders_are_ilsvrc(few, tmp_path):
    assert is_ilsvrc_folder(few)
    assert is_ilsvrc_folder(tmp_path)
    assert not is_ilsvrc_folder(few / "n00000001")
    assert not is_ilsvrc_folder(few / "readme.txt")
    assert not is_ilsvrc_folder(tmp_path / "missing")
