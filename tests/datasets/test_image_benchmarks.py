"""Every image benchmark from a small archive in the official form: fetched from a local server, built, split, read."""

import dataclasses
import hashlib
import importlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from backends.kits import FRAMEWORKS, make_kit
from PIL import Image

from metabridge.archives.fetch import Archive
from metabridge.datasets import benchmarks, cifar, cub, helpers, miniimagenet, multimnist
from metabridge.datasets.catalogue import BENCHMARKS
from metabridge.sources import HDF5Source

pytestmark = [pytest.mark.xdist_group("image_benchmarks"), pytest.mark.slow]

PER_CLASS = 4
"""Examples of each class in the small archives; the official ones have hundreds."""


def picture(rng: np.random.Generator, size: tuple[int, ...], form: str) -> tuple[bytes, np.ndarray]:
    """An image file, and the pixels it decodes to."""
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(buffer, form)
    return buffer.getvalue(), np.asarray(Image.open(io.BytesIO(buffer.getvalue())))


def tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def make_cifar(path: Path, table: dict[str, Any]) -> dict[str, np.ndarray]:
    """Python-2 style: protocol 2, and byte strings for keys that read as latin-1 text."""
    rng = np.random.default_rng(0)
    names = sorted(name for split in ("train", "val", "test") for name in table[split])
    images: dict[str, list[np.ndarray]] = {name: [] for name in names}
    files = {"cifar-100-python/meta": pickle.dumps({"fine_label_names": names, "coarse_label_names": []}, 2)}
    for member, count in (("train", PER_CLASS - 1), ("test", 1)):
        labels = rng.permutation(np.arange(len(names)).repeat(count))
        data = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        for label, row in zip(labels, data, strict=True):
            images[names[label]].append(row.reshape(3, 32, 32).transpose(1, 2, 0))
        files[f"cifar-100-python/{member}"] = pickle.dumps({"data": data, "fine_labels": labels.tolist()}, 2)
    tar(path, files)
    return {name: np.stack(each) for name, each in images.items()}


def make_cub(path: Path, table: dict[str, Any]) -> dict[str, np.ndarray]:
    """Photographs in another order than their names', one of them grey."""
    rng = np.random.default_rng(0)
    # A table larger than any image, and what macOS adds: neither is read.
    members, images = {"attributes.txt": b"", "CUB_200_2011/attributes/labels.txt": b"0" * (17 << 20)}, {}
    members["CUB_200_2011/images/001.Black_footed_Albatross/._x.jpg"] = b"none"
    for name in (name for split in ("train", "val", "test") for name in table[split]):
        pixels = []
        for number in range(PER_CLASS):
            size = (130, 126) if (name, number) == ("001.Black_footed_Albatross", 0) else (126, 140, 3)
            content, decoded = picture(rng, size, "JPEG")
            members[f"CUB_200_2011/images/{name}/{name[4:]}_{number:04d}_1.jpg"] = content
            pixels.append(expected_bird(decoded))
        images[name] = np.stack(pixels)
    tar(path, dict(reversed(members.items())))
    return images


def expected_bird(decoded: np.ndarray) -> np.ndarray:
    """The shorter side is 126 already, so what is left is the centre."""
    rgb = decoded if decoded.ndim == 3 else np.stack([decoded] * 3, -1)
    top, left = (rgb.shape[0] - 84) // 2, (rgb.shape[1] - 84) // 2
    return rgb[top : top + 84, left : left + 84]


def make_digits(path: Path, table: dict[str, Any], size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    images: dict[str, list[np.ndarray]] = {}
    with zipfile.ZipFile(path, "w") as archive:
        for split in ("test", "val", "train"):
            for name in table[split]:
                for number in range(PER_CLASS):
                    content, decoded = picture(rng, (size, size), "PNG")
                    archive.writestr(f"{path.stem}/{split}/{name}/{number}_{name}.png", content)
                    images.setdefault(name, []).append(decoded[..., None])
    return {name: np.stack(each) for name, each in images.items()}


def make_mini(path: Path, table: dict[str, Any]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    members, images = {}, {}
    for split in ("train", "val", "test"):
        labels = rng.permutation(np.arange(len(table[split])).repeat(PER_CLASS))
        data = rng.integers(0, 256, (len(labels), 84, 84, 3), dtype=np.uint8)
        rows = {name: np.flatnonzero(labels == i).tolist() for i, name in enumerate(table[split])}
        members[f"mini-imagenet-cache-{split}.pkl"] = pickle.dumps({"image_data": data, "class_dict": rows}, 2)
        images |= {name: data[chosen] for name, chosen in rows.items()}
    tar(path, members)
    return images


@dataclass(frozen=True)
class Row:
    """A benchmark, how to make its archive small, and what the paper says of it."""

    benchmark: benchmarks.Benchmark
    make: Callable[[Path, dict[str, Any]], dict[str, np.ndarray]]
    read: Callable[..., Any]
    helper: Callable[..., Any]
    meta_dataset: type
    shape: tuple[int, ...]
    classes: tuple[int, int, int]
    split: str


ROWS = {
    row.benchmark.name: row
    for row in [
        Row(cifar.CIFAR_FS, make_cifar, partial(cifar.read_cifar100, examples_per_class=PER_CLASS), helpers.cifar_fs,
            cifar.CIFARFS, (32, 32, 3), (64, 16, 20), "cifar_fs"),
        Row(cifar.FC_100, make_cifar, partial(cifar.read_cifar100, examples_per_class=PER_CLASS), helpers.fc100,
            cifar.FC100, (32, 32, 3), (60, 20, 20), "fc100"),
        Row(cub.CUB_200, make_cub, partial(cub.read_cub, images=200 * PER_CLASS), helpers.cub,
            cub.CUB, (84, 84, 3), (100, 50, 50), "cub"),
        Row(multimnist.DOUBLE_MNIST, partial(make_digits, size=64),
            partial(multimnist.read_digits, title="doublemnist", size=64, examples_per_class=PER_CLASS),
            helpers.doublemnist, multimnist.DoubleMNIST, (64, 64, 1), (64, 16, 20), "doublemnist"),
        Row(multimnist.TRIPLE_MNIST, partial(make_digits, size=84),
            partial(multimnist.read_digits, title="triplemnist", size=84, examples_per_class=PER_CLASS),
            helpers.triplemnist, multimnist.TripleMNIST, (84, 84, 1), (640, 160, 200), "triplemnist"),
        Row(miniimagenet.MINI_IMAGENET, make_mini,
            partial(miniimagenet.read_mini_imagenet, examples_per_class=PER_CLASS), helpers.miniimagenet,
            miniimagenet.MiniImagenet, (84, 84, 3), (64, 16, 20), "mini_imagenet"),
    ]
}  # fmt: skip
EVERY_BENCHMARK = pytest.mark.parametrize("name", ROWS)


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Name → (small archive, class → its images), made once."""
    folder, made = tmp_path_factory.mktemp("archives"), {}

    def get(name):
        if name not in made:
            row = ROWS[name]
            path = folder / name / row.benchmark.variants["full"].archives[0].name
            path.parent.mkdir()
            made[name] = path, row.make(path, dict(benchmarks.split_table(row.split)))
        return made[name]

    return get


@pytest.fixture
def small(archives, monkeypatch):
    """A benchmark whose official archive is the small one, at this address."""

    def get(name, url="http://127.0.0.1:9/none"):
        row, (path, images) = ROWS[name], archives(name)
        content = path.read_bytes()
        archive = Archive(path.name, (url,), sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        variant = dataclasses.replace(row.benchmark.variants["full"], archives=(archive,), read=row.read)
        benchmark = dataclasses.replace(row.benchmark, variants={"full": variant})
        monkeypatch.setattr(row.meta_dataset, "benchmark", benchmark)
        return benchmark, path, images

    return get


@EVERY_BENCHMARK
def test_the_split_is_that_of_the_paper(name):
    row = ROWS[name]
    table = benchmarks.split_table(row.split)
    sets = [table[split] for split in ("train", "val", "test")]
    assert tuple(map(len, sets)) == row.classes
    assert len({label for each in sets for label in each}) == sum(row.classes)
    assert table["source"]
    assert table["paper"]
    variant = row.benchmark.variants["full"]
    assert variant.splits["official"](()) == {split: table[split] for split in ("train", "val", "test")}
    assert variant.num_classes == sum(row.classes)
    assert BENCHMARKS[name] is row.benchmark


def test_the_published_numbers_of_examples_are_those_the_readers_ask_for():
    for name, row in ROWS.items():
        if name != "cub":
            module = importlib.import_module(row.read.func.__module__)
            expected = tuple(module.EXAMPLES_PER_CLASS * count for count in row.classes)
            assert row.benchmark.variants["full"].num_examples == expected
    assert sum(cub.CUB_200.variants["full"].num_examples) == cub.IMAGES


@EVERY_BENCHMARK
def test_it_is_downloaded_built_and_read(name, small, server, tmp_path):
    row = ROWS[name]
    _, path, images = small(name)
    small(name, server.serve(path.name, path.read_bytes()))
    root = tmp_path / "root"
    seen = []
    for split in ("train", "val", "test"):
        dataset = row.helper(root, shots=1, ways=5, test_shots=2, meta_split=split, download=True)
        assert set(dataset.source.class_names) == set(benchmarks.split_table(row.split)[split])
        assert dataset.source.example_shape == row.shape
        batch = dataset.episodes(range(2))
        assert batch["train"][0].shape == (2, 5, *row.shape)
        assert batch["test"][0].shape == (2, 10, *row.shape)
        seen.append(dataset)
    for framework in FRAMEWORKS:
        make_kit(framework)  # skips, or fails in CI, where the framework is missing
        loaders = importlib.import_module(f"{framework}_backend.data")
        (batch,) = loaders.BatchMetaDataLoader(seen[0], batch_size=2, seed=0, num_batches=1)
        expected = seen[0].episodes(range(2), seed=0)["test"][0]
        found = np.asarray(batch["test"][0])
        np.testing.assert_array_equal(np.moveaxis(found, 2, -1) if framework == "torch" else found, expected)
    assert server.requests == [f"/{path.name}"]  # the second and third found it built
    for dataset in seen:
        for position in (0, len(dataset.source.class_names) - 1):
            label = dataset.source.class_names[position]
            found = dataset.source.gather(np.full(PER_CLASS, position), np.arange(PER_CLASS))
            np.testing.assert_array_equal(found, images[label])


@EVERY_BENCHMARK
def test_unpacked_files_make_the_same_store(name, small, tmp_path):
    benchmark, path, _ = small(name)
    unpacked = tmp_path / "unpacked"
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            archive.extractall(unpacked)
    else:
        with tarfile.open(path) as archive:
            archive.extractall(unpacked, filter="data")
    stores = [
        HDF5Source(benchmarks.build(benchmark, tmp_path / kind, source=source, progress=False))
        for kind, source in (("archive", path), ("folder", path.parent), ("unpacked", unpacked))
    ]
    assert len({store.fingerprint for store in stores}) == 1
    assert stores[0].provenance["archives"] == {path.name: benchmark.variants["full"].archives[0].checksum}
    assert stores[2].provenance["archives"] == {path.name: "folder"}
    assert stores[0].provenance["preparation"]
    variant = benchmark.variants["full"]
    assert (stores[0].example_shape, stores[0].dtype) == (variant.example_shape, variant.dtype)
    assert len(stores[0]) == variant.num_classes


@EVERY_BENCHMARK
def test_a_damaged_archive_is_refused_before_it_is_opened(name, small, tmp_path):
    benchmark, path, _ = small(name)
    damaged = tmp_path / path.name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match="is not the official"):
        benchmarks.build(benchmark, tmp_path / "root", source=damaged, progress=False)
    assert not list((tmp_path / "root").rglob("*.h5"))


@EVERY_BENCHMARK
def test_files_of_another_dataset_are_refused(name, small, tmp_path):
    benchmark, _, _ = small(name)
    other = tmp_path / "other"
    (other / "images").mkdir(parents=True)
    (other / "images" / "readme.txt").write_text("nothing")
    with pytest.raises(ValueError, match=r"must hold"):
        benchmarks.build(benchmark, tmp_path / "root", source=other, progress=False)
    with pytest.raises(FileNotFoundError, match="there is nothing at"):
        benchmarks.build(benchmark, tmp_path / "root", source=tmp_path / "missing", progress=False)


@EVERY_BENCHMARK
def test_what_is_not_built_says_how_to_build_it(name, tmp_path):
    row = ROWS[name]
    with pytest.raises(FileNotFoundError, match=f"metabridge build {name} --root"):
        row.helper(tmp_path, shots=1, ways=5, meta_train=True)
    with pytest.raises(ValueError, match="`num_classes_per_task` must equal `ways`"):
        row.helper(tmp_path, shots=1, ways=5, meta_train=True, num_classes_per_task=4)
    with pytest.raises(TypeError, match="`num_classes_per_task` must be an integer"):
        row.meta_dataset(tmp_path, meta_train=True)
    with pytest.raises(ValueError, match="`variant` of"):
        benchmarks.store_path(row.benchmark, tmp_path, "small1")


def test_a_pickle_that_runs_code_is_refused(small, tmp_path):
    """With the right checksum it would still not run: here, as unpacked files."""
    benchmark, path, _ = small("miniimagenet")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "files", filter="data")
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    (tmp_path / "files" / "mini-imagenet-cache-val.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"mini-imagenet-cache-val\.pkl"):
        benchmarks.build(benchmark, tmp_path / "root", source=tmp_path / "files", progress=False)
    assert not marker.exists()
    assert not list((tmp_path / "root").rglob("*.h5"))


def test_both_splits_of_cifar_share_their_download():
    assert cifar.CIFAR_FS.variants["full"].archives == cifar.FC_100.variants["full"].archives
    assert cifar.CIFAR_FS.downloads == cifar.FC_100.downloads


def test_superclasses_of_fc100_stay_together():
    table = benchmarks.split_table("fc100")
    groups = [set(table["groups"][split]) for split in ("train", "val", "test")]
    assert [len(each) for each in groups] == [12, 4, 4]
    assert len(set.union(*groups)) == 20
    for split in ("train", "val", "test"):
        assert sorted(name for names in table["groups"][split].values() for name in names) == sorted(table[split])
