"""Pascal-5i from small archives in the official form: which images, which classes, which pixels."""

import dataclasses
import hashlib
import importlib
import io
import tarfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from backends.kits import FRAMEWORKS, make_kit
from PIL import Image
from scipy.io import savemat

from metabridge.archives.fetch import Archive
from metabridge.datasets import Pascal5i, benchmarks, helpers
from metabridge.datasets.pascal5i import PASCAL_5I, SMALLEST_OBJECT, _Masks, read_pascal
from metabridge.sources import HDF5Source
from metabridge.transforms import Categorical, Rotation

pytestmark = pytest.mark.xdist_group("pascal5i")

CLASSES = benchmarks.split_table("pascal5i")["classes"]
SIDE = 20
HEIGHT, WIDTH = 120, 100  # an object of half the image is large enough, one of 30 by 30 pixels is not
IMAGES = {"train": 61, "test": 43}
VOC_MASK = "VOCdevkit/VOC2012/SegmentationClass/2010_000003.png"
MASK = "benchmark_RELEASE/dataset/cls/2008_000003.mat"
COLOURS = [channel for colour in range(256) for channel in (colour, 255 - colour, 7)]


def mask_of(classes, rng, outlines=True):
    """Half of the image for each of one or two classes, with an outline of 255 between, and one small object."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for position, number in enumerate(classes):
        mask[position * 60 + 2 : position * 60 + 58, 5:85] = number
    mask[60:90, 90:100] = rng.integers(1, 21)  # 300 pixels
    if outlines:
        mask[58:60] = 255
    return mask


def make_content():
    """Archive → files, and what each image shows: every class three times by VOC, twice by SBD, twice in val."""
    rng = np.random.default_rng(0)
    voc, sbd, shown = {}, {}, {"train": {}, "test": {}}
    lists = {"train": [], "val": []}

    def photograph(image):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(buffer, "JPEG")
        voc[f"VOCdevkit/VOC2012/JPEGImages/{image}.jpg"] = buffer.getvalue()
        return np.asarray(Image.open(io.BytesIO(buffer.getvalue())))

    def png(image, mask):
        drawn = Image.fromarray(mask, "P")
        drawn.putpalette(COLOURS)
        buffer = io.BytesIO()
        drawn.save(buffer, "PNG")
        voc[f"VOCdevkit/VOC2012/SegmentationClass/{image}.png"] = buffer.getvalue()

    def mat(image, mask):
        buffer = io.BytesIO()
        content = {"Boundaries": np.zeros(3), "Segmentation": mask, "CategoriesPresent": np.unique(mask)}
        savemat(buffer, {"GTcls": content}, do_compression=True)
        sbd[f"benchmark_RELEASE/dataset/cls/{image}.mat"] = buffer.getvalue()

    def add(image, role, classes, by):
        mask = mask_of(classes, rng, outlines=by == "voc")
        shown[role][image] = (photograph(image), mask, set(classes))
        if by == "voc":
            png(image, mask)
            lists["train" if role == "train" else "val"].append(image)
        else:
            mat(image, mask)

    for number in range(1, 21):
        partner = number % 20 + 1
        add(f"2007_{number:06d}", "train", [number, partner], "voc")
        add(f"2008_{number:06d}", "train", [number], "sbd")
        add(f"2009_{number:06d}", "train", [partner, number], "sbd")
        add(f"2010_{number:06d}", "test", [number, partner], "voc")
        add(f"2011_{number:06d}", "test", [number], "voc")
    add("2007_009999", "train", [], "voc")  # shows nothing that is large enough
    for position in range(3):
        add(f"2012_{position:06d}", "test", [1], "voc")
    mat("2010_000001", mask_of([7], rng))  # SBD has it, but it is in val: VOC's mask is taken
    mat("2007_000001", mask_of([9], rng))  # in both: VOC's mask is taken
    photograph("2012_000999")  # VOC has many photographs without a mask
    for part, names in lists.items():
        voc[f"VOCdevkit/VOC2012/ImageSets/Segmentation/{part}.txt"] = "".join(f"{n}\n" for n in names).encode()
    sbd["benchmark_RELEASE/dataset/train.txt"] = b"not read\n"
    return voc, sbd, shown


@pytest.fixture(scope="module")
def content():
    return make_content()


def write_tar(path, files, mode):
    with tarfile.open(path, mode) as archive:
        for name, body in sorted(files.items(), key=lambda each: zlib.crc32(each[0].encode())):  # no order helps
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))


@pytest.fixture
def small(content, monkeypatch, tmp_path):
    """Pascal-5i whose official archives are the small ones in this folder, at these addresses."""
    folder = tmp_path / "official"
    folder.mkdir()
    voc, sbd, _ = content
    write_tar(folder / "VOCtrainval_11-May-2012.tar", voc, "w")
    write_tar(folder / "benchmark.tgz", sbd, "w:gz")

    def get(address=lambda path: "http://127.0.0.1:9/none"):
        variant = PASCAL_5I.variants["321"]
        archives = tuple(
            Archive(each.name, (address(folder / each.name),), sha256(folder / each.name)) for each in variant.archives
        )
        read = partial(read_pascal, size=SIDE, images=IMAGES)
        variant = dataclasses.replace(variant, archives=archives, read=read, example_shape=(SIDE, SIDE, 4))
        benchmark = dataclasses.replace(PASCAL_5I, variants={"321": variant})
        monkeypatch.setattr(Pascal5i, "benchmark", benchmark)
        return benchmark, folder

    return get


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def built(small, tmp_path):
    benchmark, folder = small()
    benchmarks.build(benchmark, tmp_path / "root", source=folder, progress=False)
    return tmp_path / "root"


def test_a_fold_tests_five_classes_and_trains_on_the_other_fifteen():
    """All five: Torchmeta loses the first."""
    splits = PASCAL_5I.variants["321"].splits
    assert list(splits) == ["fold 0", "fold 1", "fold 2", "fold 3"]
    tested = []
    for fold, split in enumerate(splits.values()):
        table = split(())
        assert {name: len(each) for name, each in table.items()} == {"train": 15, "val": 0, "test": 5}
        new, old = ({name.partition("/")[2] for name in table[which]} for which in ("test", "train"))
        assert new == set(CLASSES[5 * fold : 5 * fold + 5])
        assert new | old == set(CLASSES)
        assert not new & old
        tested += table["test"]
    assert sorted(tested) == [f"test/{name}" for name in CLASSES]
    assert list(CLASSES) == sorted(CLASSES)


def test_the_store_holds_every_image_for_each_class_that_it_shows_large_enough(built, content):
    _, _, shown = content
    source = HDF5Source(benchmarks.store_path(PASCAL_5I, built, "321"))
    assert source.class_names == tuple(sorted(f"{role}/{name}" for role in ("train", "test") for name in CLASSES))
    for position, name in enumerate(source.class_names):
        role, _, label = name.partition("/")
        number = CLASSES.index(label) + 1
        images = [image for image in sorted(shown[role]) if number in shown[role][image][2]]
        assert source.class_sizes[position] == len(images)
        found = source.gather(np.full(len(images), position), np.arange(len(images)))
        for image, example in zip(images, found, strict=True):
            pixels, mask, _ = shown[role][image]
            expected = Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(example[..., :3], np.asarray(expected))
            centres = np.ix_(*((np.arange(SIDE) * side + side // 2) // SIDE for side in (HEIGHT, WIDTH)))
            small = mask[centres]
            np.testing.assert_array_equal(example[..., 3], np.where(small == 255, 255, small == number))
            assert (example[..., 3] == 1).any()


def test_an_object_counts_from_a_number_of_pixels_on(content, tmp_path):
    """One pixel less, and the image is none of the class."""
    voc, sbd, shown = content
    for pixels, more in ((SMALLEST_OBJECT, 1), (SMALLEST_OBJECT - 1, 0)):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask.reshape(-1)[:pixels] = 3
        buffer = io.BytesIO()
        drawn = Image.fromarray(mask, "P")
        drawn.putpalette(COLOURS)
        drawn.save(buffer, "PNG")
        root = tmp_path / str(pixels)
        write_files(root, {**voc, **sbd, "VOCdevkit/VOC2012/SegmentationClass/2007_009999.png": buffer.getvalue()})
        source = HDF5Source(benchmarks.build(small_benchmark(), root / "built", source=root, progress=False))
        before = sum(3 in classes for _, _, classes in shown["train"].values())
        assert source.class_sizes[source.class_names.index(f"train/{CLASSES[2]}")] == before + more


def write_files(root, files):
    for name, body in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(body)


def small_benchmark():
    variant = PASCAL_5I.variants["321"]
    read = partial(read_pascal, size=SIDE, images=IMAGES)
    variant = dataclasses.replace(variant, read=read, example_shape=(SIDE, SIDE, 4))
    return dataclasses.replace(PASCAL_5I, variants={"321": variant})


def test_it_is_downloaded_built_and_read_by_both_backends(small, server, tmp_path):
    benchmark, _ = small(lambda path: server.serve(path.name, path.read_bytes()))
    root = tmp_path / "root"
    for fold in range(4):
        for split, classes in (("train", 15), ("test", 5)):
            dataset = helpers.pascal5i(root, shots=1, test_shots=2, meta_split=split, fold=fold, download=True)
            assert dataset.num_classes == dataset.num_tasks == classes
            assert dataset.input_shape == (SIDE, SIDE, 3)
            batch = dataset.episodes(range(3))
            assert batch["train"][0].shape == (3, 1, SIDE, SIDE, 3)
            assert batch["test"][1].shape == (3, 2, SIDE, SIDE)
            assert set(np.unique(batch["test"][1])) <= {0, 1, 255}
    assert server.requests == [f"/{each.name}" for each in benchmark.variants["321"].archives]
    for framework in FRAMEWORKS:
        kit = make_kit(framework)  # skips, or fails in CI, where the framework is missing
        loaders = importlib.import_module(f"{framework}_backend.data")
        (batch,) = loaders.BatchMetaDataLoader(dataset, batch_size=2, seed=0, num_batches=1)
        expected = dataset.episodes(range(2), seed=0)
        for name, (inputs, masks) in kit.data.to_numpy(batch).items():
            np.testing.assert_array_equal(inputs, expected[name][0])
            np.testing.assert_array_equal(masks, expected[name][1])


def test_archives_and_unpacked_folders_make_the_same_store(small, tmp_path):
    benchmark, folder = small()
    unpacked = tmp_path / "unpacked"
    for path in folder.iterdir():
        with tarfile.open(path) as archive:
            archive.extractall(unpacked, filter="data")
    stores = [
        HDF5Source(benchmarks.build(benchmark, tmp_path / source.name, source=source, progress=False))
        for source in (folder, unpacked)
    ]
    assert stores[0].fingerprint == stores[1].fingerprint
    assert "at least 2048 pixels" in stores[0].provenance["preparation"]


def test_train_and_test_share_no_image(built):
    dataset = {split: Pascal5i(built, 1, meta_split=split) for split in ("train", "test")}
    pixels = {
        split: {
            each.source.gather(np.array([c]), np.array([e]))[0, ..., :3].tobytes()
            for c, size in enumerate(each.source.class_sizes)
            for e in range(size)
        }
        for split, each in dataset.items()
    }
    assert not pixels["train"] & pixels["test"]


def test_classes_can_be_augmented_with_their_masks(built):
    dataset = helpers.pascal5i(built, shots=2, meta_train=True, class_augmentations=[Rotation(90)])
    assert dataset.num_classes == 30
    plain = dataset[(3,)]["train"]
    turned = dataset.source.gather(np.full(2, 3), dataset.task_plan((18,)).examples[0, 0, :2])
    found = dataset[(18,)]["train"]
    np.testing.assert_array_equal(found.targets, np.rot90(turned[..., 3], axes=(1, 2)))
    assert plain.inputs.shape == found.inputs.shape


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"meta_val": True}, ValueError, "'fold 0' of Pascal-5i has no meta-val classes"),
        ({"meta_train": True, "fold": 4}, ValueError, "`fold` must be 0, 1, 2 or 3, got 4"),
        ({"meta_train": True, "fold": True}, ValueError, "`fold` must be 0, 1, 2 or 3, got True"),
        ({"meta_train": True, "variant": "500"}, ValueError, "`variant` of .* must be .*'321'.* got '500'"),
        ({"meta_train": True, "num_classes_per_task": 2}, ValueError, "`num_classes_per_task` must be 1, got 2"),
        ({"meta_train": True, "target_transform": Categorical(1)}, TypeError, "`target_transform` must be None"),
    ],
)
def test_what_cannot_be_is_refused(built, arguments, error, message):
    with pytest.raises(error, match=message):
        Pascal5i(built, **{"num_classes_per_task": 1, **arguments})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda root: (root / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").unlink(), r"val\.txt is missing"),
        (lambda root: (root / "VOCdevkit/VOC2012/JPEGImages/2008_000003.jpg").unlink(), r"2008_000003\.jpg is missing"),
        (lambda root: (root / VOC_MASK).unlink(), "is missing"),
        (lambda root: (root / MASK).unlink(), "61 images .* got 60"),
        (
            lambda root: (root / MASK).write_bytes(b"\x80\x04."),
            "2008_000003",
        ),
        (lambda root: (root / MASK).write_bytes(bytes(200)), "2008_000003"),
        (lambda root: wrong_struct(root / MASK), "2008_000003"),
        (lambda root: smaller(root / "VOCdevkit/VOC2012/JPEGImages/2008_000003.jpg"), "its mask has"),
        (lambda root: rgb_mask(root / VOC_MASK), "2010_000003.* must have a palette, its mode is RGB"),
        (lambda root: unknown_class(root / VOC_MASK), "2010_000003.* classes 0 to 20 and 255, it holds 21"),
        (lambda root: (root / "VOCdevkit/VOC2012").rename(root / "VOCdevkit/other"), r"train\.txt is missing"),
    ],
)
def test_files_that_are_not_pascal_s_are_refused_by_name(content, tmp_path, change, message):
    voc, sbd, _ = content
    root = tmp_path / "files"
    write_files(root, {**voc, **sbd})
    change(root)
    with pytest.raises(ValueError, match=message):
        benchmarks.build(small_benchmark(), tmp_path / "root", source=root, progress=False)
    assert not list((tmp_path / "root").rglob("*.h5"))


def wrong_struct(path: Path):
    buffer = io.BytesIO()
    savemat(buffer, {"GTcls": {"Segmentation": np.zeros((4, 4))}})
    path.write_bytes(buffer.getvalue())


def smaller(path: Path):
    Image.open(path).resize((50, 50)).save(path, "JPEG")


def rgb_mask(path: Path):
    Image.open(path).convert("RGB").save(path, "PNG")


def unknown_class(path: Path):
    mask = Image.open(path)
    mask.putpixel((0, 0), 21)
    mask.save(path, "PNG")


def test_an_object_that_vanishes_when_it_is_shrunk_does_not_count():
    mask = np.zeros((500, 500), np.uint8)
    mask[::10, :] = 4  # 25,000 pixels, none of which is under the centre of one of 20 by 20
    masks = _Masks(SIDE)
    masks.add("one", mask)
    assert masks.classes["one"] == frozenset()
    mask[2::10, :] = 4
    masks.add("two", mask)
    assert masks.classes["two"] == {4}


@pytest.mark.parametrize("name", ["321", "400"])
def test_a_variant_is_the_size_it_is_called(name, content, tmp_path):
    voc, sbd, _ = content
    write_files(tmp_path / "files", {**voc, **sbd})
    variant = PASCAL_5I.variants[name]
    variant = dataclasses.replace(variant, read=partial(variant.read, images=IMAGES))
    benchmark = dataclasses.replace(PASCAL_5I, variants={name: variant})
    store = HDF5Source(benchmarks.build(benchmark, tmp_path, source=tmp_path / "files", progress=False))
    assert store.example_shape == variant.example_shape == (int(name), int(name), 4)


def test_two_copies_in_one_folder_are_refused(content, tmp_path):
    voc, sbd, _ = content
    root = tmp_path / "files"
    for copy in ("one", "two"):
        write_files(root / copy, {**voc, **sbd})
    with pytest.raises(ValueError, match=r"must hold .* once; pass one copy"):
        benchmarks.build(small_benchmark(), tmp_path / "root", source=root, progress=False)


def test_a_wrong_checksum_is_refused_before_anything_is_read(small, tmp_path):
    benchmark, folder = small()
    path = folder / "benchmark.tgz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is not the official"):
        benchmarks.build(benchmark, tmp_path / "root", source=folder, progress=False)
