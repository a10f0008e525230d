"""Tiered-ImageNet from a small archive in the official form: Python 2's pickles of lists of PNG files."""

import dataclasses
import hashlib
import io
import pickle
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_pickles import peak_bytes, python2_list

from metabridge.archives.fetch import Archive
from metabridge.datasets import benchmarks, helpers
from metabridge.datasets.tieredimagenet import ARCHIVE, EXAMPLES, TIERED_IMAGENET, TieredImagenet, read_tiered_imagenet
from metabridge.sources import HDF5Source

pytestmark = pytest.mark.xdist_group("tiered_imagenet")

SPLITS = ("train", "val", "test")
TABLE = benchmarks.split_table("tiered_imagenet")
CRANES = {"n02012849": "crane", "n03126707": "crane"}
"""The bird is in meta-train, the machine in no meta-split."""


def readable(wnid):
    return CRANES.get(wnid, f"class {wnid}, café")


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return np.frombuffer(buffer.getvalue(), np.uint8)[:, None]


def make(seed):
    """Members of an archive, and class → its images in the order of the files. Classes differ in size."""
    rng, order = np.random.default_rng(0), np.random.default_rng(seed)
    members, images, totals = {}, {}, {}
    for split in SPLITS:
        wnids = TABLE[split]
        data = [(wnid, rng.integers(0, 256, 3, np.uint8), n) for i, wnid in enumerate(wnids) for n in range(1 + i % 3)]
        photographs = {}
        for wnid, colour, number in data:
            pixels = np.empty((84, 84, 3), np.uint8)
            pixels[:] = colour
            pixels[number, 5:50] += np.arange(45, dtype=np.uint8)[:, None]
            photographs[wnid, number] = pixels
        labels = order.permutation(wnids).tolist()
        places = order.permutation(np.repeat(labels, [1 + wnids.index(wnid) % 3 for wnid in labels])).tolist()
        seen = dict.fromkeys(wnids, 0)
        files = []
        for wnid in places:
            files.append(png(photographs[wnid, seen[wnid]]))
            images.setdefault(wnid, []).append(photographs[wnid, seen[wnid]])
            seen[wnid] += 1
        members[f"{split}_images_png.pkl"] = python2_list(files)
        members[f"{split}_labels.pkl"] = pickle.dumps(
            {
                "label_specific": np.array([labels.index(wnid) for wnid in places], np.int32),
                "label_general": np.zeros(len(places), np.int32),
                "label_specific_str": [readable(wnid).encode().decode("latin1") for wnid in labels],
                "label_general_str": [],
            },
            2,
        )
        totals[split] = len(places)
    everything = order.permutation([*(wnid for split in SPLITS for wnid in TABLE[split]), "n03126707"])
    members["synsets.txt"] = "".join(f"{wnid}\n" for wnid in everything).encode()
    members["class_names.txt"] = "".join(f"{readable(wnid)}\n" for wnid in everything).encode()
    return members, images, totals


@pytest.fixture(scope="module")
def official():
    return make(0)


def write(members, folder):
    folder = folder / "tiered-imagenet"
    folder.mkdir(parents=True)
    for name, content in members.items():
        (folder / name).write_bytes(content)
    return folder


def with_totals(totals, archive=ARCHIVE):
    """The benchmark with so many photographs of each meta-split, and this archive."""
    read = partial(read_tiered_imagenet, examples=totals)
    full = dataclasses.replace(
        TIERED_IMAGENET.variants["full"], archives=(archive,), read=read, num_examples=tuple(totals.values())
    )
    return dataclasses.replace(TIERED_IMAGENET, variants=TIERED_IMAGENET.variants | {"full": full})


def archive_of(members, path, totals, url="http://127.0.0.1:9/none"):
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"tiered-imagenet/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    content = path.read_bytes()
    return with_totals(totals, Archive(path.name, (url,), hashlib.sha256(content).hexdigest(), len(content)))


@pytest.fixture
def small(official, tmp_path):
    """A benchmark whose archive is the small one, and that archive."""
    path = tmp_path / "official" / "tiered-imagenet.tar"
    return archive_of(official[0], path, official[2]), path


def test_the_split_is_that_of_the_paper():
    assert [len(TABLE[split]) for split in SPLITS] == [351, 97, 160]
    assert len({wnid for split in SPLITS for wnid in TABLE[split]}) == 608
    assert sum(EXAMPLES.values()) == 779_165


def test_categories_are_never_shared_between_meta_splits():
    groups = [set(TABLE["groups"][split]) for split in SPLITS]
    assert [len(each) for each in groups] == [20, 6, 8]
    assert len(set.union(*groups)) == len(TABLE["group_names"]) == 34
    for split in SPLITS:
        assert sorted(name for names in TABLE["groups"][split].values() for name in names) == sorted(TABLE[split])


def test_every_image_comes_back_in_its_class(small, official, tmp_path, monkeypatch):
    benchmark, path = small
    _, images, totals = official
    store = HDF5Source(benchmarks.build(benchmark, tmp_path, source=path, progress=False))
    assert store.class_sizes.sum() == sum(totals.values())
    checksum = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert store.provenance["archives"] == {path.name: checksum}
    for position, wnid in enumerate(store.class_names):
        count = int(store.class_sizes[position])
        found = store.gather(np.full(count, position), np.arange(count))
        np.testing.assert_array_equal(found, np.stack(images[wnid]))
    monkeypatch.setattr(TieredImagenet, "benchmark", benchmark)
    for split in SPLITS:
        dataset = TieredImagenet(tmp_path, 5, meta_split=split)
        assert set(dataset.source.class_names) == set(TABLE[split])


def test_the_store_does_not_depend_on_the_archives_order(small, official, tmp_path):
    """Images of a class keep theirs; a folder with the files makes the same store."""
    benchmark, path = small
    members, images, totals = make(1)
    assert members["train_images_png.pkl"] != official[0]["train_images_png.pkl"]
    reordered = archive_of(dict(reversed(members.items())), tmp_path / "other" / path.name, totals)
    unpacked = write(official[0], tmp_path / "unpacked")
    stores = [
        HDF5Source(benchmarks.build(made, tmp_path / kind, source=source, progress=False))
        for kind, made, source in (
            ("a", benchmark, path),
            ("b", reordered, tmp_path / "other" / path.name),
            ("c", benchmark, unpacked),
            ("d", benchmark, unpacked.parent),
        )
    ]
    assert len({store.fingerprint for store in stores}) == 1
    assert images.keys() == official[1].keys()


def test_it_is_downloaded_verified_built_and_read(official, server, tmp_path, monkeypatch):
    path = tmp_path / "official" / "tiered-imagenet.tar"
    benchmark = archive_of(official[0], path, official[2], server.serve(path.name))
    monkeypatch.setattr(TieredImagenet, "benchmark", benchmark)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    server.serve(path.name, bytes(content))
    with pytest.raises(ValueError, match="its sha256 is"):
        TieredImagenet(tmp_path, 5, meta_train=True, download=True)
    assert not list(tmp_path.rglob("*.h5"))
    assert list(tmp_path.rglob(path.name)) == [path]
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not the official"):
        benchmarks.build(benchmark, tmp_path, source=path, progress=False)
    content[len(content) // 2] ^= 1
    server.serve(path.name, bytes(content))
    server.requests.clear()
    for split in SPLITS:
        dataset = TieredImagenet(tmp_path, 5, meta_split=split, download=True)
        assert set(dataset.source.class_names) == set(TABLE[split])
        for position, wnid in enumerate(dataset.source.class_names[:2]):
            rows = np.arange(len(official[1][wnid]))
            found = dataset.source.gather(np.full(len(rows), position), rows)
            np.testing.assert_array_equal(found, np.stack(official[1][wnid]))
    assert server.requests == [f"/{path.name}"]  # the second and third found it built


def change_labels(**changes):
    def change(members):
        labels = pickle.loads(members["val_labels.pkl"])
        for key, value in changes.items():
            labels[key] = value(labels[key])
        return {"val_labels.pkl": pickle.dumps(labels, 2)}

    return change


def names_twice(members):
    """A second class of meta-val gets the name of the first."""
    first, second = (readable(TABLE["val"][i]).encode() for i in (0, 1))
    return {"class_names.txt": members["class_names.txt"].replace(second + b"\n", first + b"\n")}


def without_images(members):
    return {"test_images_png.pkl": python2_list([png(np.zeros((84, 84, 3), np.uint8))] * 3)}


def one_image_more(members):
    return {"val_images_png.pkl": python2_list([png(np.zeros((84, 84, 3), np.uint8))] * 1000)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (names_twice, r"val_labels\.pkl is not a file of Tiered-ImageNet \(the name .* that of one val class"),
        (change_labels(label_specific_str=lambda names: ["unknown", *names[1:]]), "'unknown' must be that of one val"),
        (change_labels(label_specific_str=lambda names: [names[1], *names[1:]]), "must not have the same name"),
        (change_labels(label_specific_str=lambda names: names[:-1]), "every label must have a name"),
        (change_labels(label_specific_str=lambda names: 3), r"not a file of Tiered-ImageNet \(TypeError"),
        (change_labels(label_specific=lambda labels: labels[:-1]), "it must hold 193 labels"),
        (change_labels(label_specific=lambda labels: labels * 1.0), "it must hold 193 labels"),
        (lambda members: {"val_labels.pkl": pickle.dumps({}, 2)}, r"val_labels\.pkl is not a file"),
        (lambda members: {"synsets.txt": b"n01\n"}, "synsets.txt 1;"),
        (lambda members: {"more/train_labels.pkl": b""}, "must hold train_labels.pkl once, got 2"),
        (without_images, r"test_images_png\.pkl must hold 319 images, it holds 3"),
        (one_image_more, r"val_images_png\.pkl must hold 193 images, it holds more"),
        (
            lambda members: {"train_images_png.pkl": python2_list([png(np.zeros((84, 80, 3), np.uint8))])},
            "84x84 pixels",
        ),
        (lambda members: {"train_images_png.pkl": python2_list([np.zeros((9, 1), np.uint8)])}, "it is no PNG image"),
        (lambda members: {"train_images_png.pkl": pickle.dumps(["x"], 2)}, "must hold images as arrays of bytes"),
    ],
)
def test_wrong_files_are_refused(change, words, small, official, tmp_path):
    benchmark, _ = small
    folder = write(official[0], tmp_path / "files")
    for name, content in change(official[0]).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=words):
        benchmarks.build(benchmark, tmp_path / "root", source=folder, progress=False)
    assert not list((tmp_path / "root").rglob("*.h5"))


@pytest.mark.parametrize("name", ["val_images_png.pkl", "val_labels.pkl"])
def test_a_pickle_that_runs_code_is_refused(name, small, official, tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return Path.touch, (marker,)

    folder = write(official[0], tmp_path / "files")
    (folder / name).write_bytes(pickle.dumps([Evil()], 2))
    with pytest.raises(ValueError, match=rf"{name}.*nothing of it was run"):
        benchmarks.build(small[0], tmp_path / "root", source=folder, progress=False)
    assert not marker.exists()
    assert not list((tmp_path / "root").rglob("*.h5"))


@pytest.mark.slow
def test_reading_takes_the_memory_of_a_batch(small, official, tmp_path):
    """Images are PNG files with padding behind them, 1,000 to a batch."""
    folder = write(official[0], tmp_path / "files")
    padded = np.concatenate([png(np.zeros((84, 84, 3), np.uint8)), np.zeros((8_000, 1), np.uint8)])
    examples = {split: 5 * count for split, count in official[2].items()}
    for split in SPLITS:
        labels = pickle.loads(official[0][f"{split}_labels.pkl"])
        labels["label_specific"] = np.tile(labels["label_specific"], 5)
        (folder / f"{split}_labels.pkl").write_bytes(pickle.dumps(labels, 2))
        (folder / f"{split}_images_png.pkl").write_bytes(python2_list([padded] * examples[split]))

    def read():
        with read_tiered_imagenet([folder], False, examples) as content:
            assert sum(1 for _ in content.blocks) == sum(examples.values())

    assert sum(path.stat().st_size for path in folder.glob("*_images_png.pkl")) > 40 << 20
    assert peak_bytes(read) < 16 << 20


def test_what_is_not_built_says_how_to_build_it(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"metabridge build tieredimagenet --variant full --root .*download=True"
    ):
        TieredImagenet(tmp_path, 5, meta_train=True)
    advice = r"training photographs from .*image-net.* --variant ilsvrc --root .* --from PATH`\.$"
    with pytest.raises(FileNotFoundError, match=f"'ilsvrc' is not built: .*{advice}"):
        TieredImagenet(tmp_path, 5, meta_train=True, variant="ilsvrc")
    with pytest.raises(FileNotFoundError, match=f"'ilsvrc' cannot be downloaded.*{advice}"):
        helpers.tieredimagenet(tmp_path, 1, 5, meta_train=True, variant="ilsvrc", download=True)
    with pytest.raises(FileNotFoundError, match=f"'ilsvrc' cannot be downloaded.*{advice}"):
        benchmarks.build(TIERED_IMAGENET, tmp_path, "ilsvrc")
    assert not list(tmp_path.iterdir())
