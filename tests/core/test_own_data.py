"""Sources over the user's own data: image folders, labelled datasets, and sources made of sources."""

import itertools
import os
import pickle
import struct
import sys
import tracemalloc
import warnings
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import coded_images, coded_source, run_python
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metabridge import ClassSplitter, CombinationMetaDataset
from metabridge.sources import (
    ArraySource,
    HDF5Source,
    ImageFolderSource,
    LabelledSource,
    filter_classes,
    in_memory,
    rename_classes,
    save_source,
    split_classes,
    union,
)
from metabridge.sources.images import ImagePreparation
from metabridge.sources.labelled import labels_of
from metabridge.sources.tables import group_labels, label_array

SIZES = [4, 7, 2, 5]
SOURCE = coded_source(SIZES)
IMAGES = [coded_images(c, size) for c, size in enumerate(SIZES)]


def everything(source):
    """Name → all examples of every class."""
    return {
        name: source.gather(np.array([c]), np.arange(size))
        for c, (name, size) in enumerate(zip(source.class_names, source.class_sizes, strict=True))
    }


def assert_same(one, other):
    one, other = everything(one), everything(other)
    assert list(one) == list(other)
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


# Image folders


@pytest.fixture
def folder(tmp_path):
    """The coded classes as PNG files, written backwards, with things in between that are no images."""
    root = tmp_path / "images"
    for c, images in reversed(list(enumerate(IMAGES))):
        inside = root / f"class{c}" / ("deep/er" if c == 1 else "")
        inside.mkdir(parents=True)
        for e in reversed(range(len(images))):
            Image.fromarray(images[e, ..., 0]).save(inside / f"{e:03d}.{'PNG' if e % 2 else 'png'}")
    (root / "class0" / "notes.txt").write_text("no image")
    (root / "class0" / ".hidden.png").write_text("no image")
    (root / ".cache").mkdir()
    (root / "__MACOSX").mkdir()
    (root / "readme.md").write_text("no class")
    return root


def test_an_image_folder_holds_its_images_by_class(folder):
    source = ImageFolderSource(folder)
    assert repr(source) == "ImageFolderSource(4 classes, 18 examples of shape (6, 6, 1), uint8)"
    assert_same(source, SOURCE)
    assert in_memory(source, progress=False).fingerprint == SOURCE.fingerprint


def test_an_image_folder_is_sorted_whatever_the_file_system_lists(folder, monkeypatch):
    from metabridge.sources import folder as module

    def backwards(path, **more):
        for here, folders, files in os.walk(path, **more):
            yield here, folders, sorted(files, reverse=True)

    expected = ImageFolderSource(folder)
    listed = {"walk": backwards, "scandir": lambda path: sorted(os.scandir(path), key=lambda e: e.name, reverse=True)}
    monkeypatch.setattr(module, "os", SimpleNamespace(**listed))
    assert_same(ImageFolderSource(folder), expected)


def test_links_are_followed_but_not_in_a_circle(folder, tmp_path):
    """A link that was passed over would be images that are missing without a word."""
    (tmp_path / "outside").mkdir()
    (folder / "class2").rename(tmp_path / "outside" / "class2")
    (folder / "class2").symlink_to(tmp_path / "outside" / "class2")
    (folder / "class1" / "deep").rename(tmp_path / "outside" / "deep")
    (folder / "class1" / "deep").symlink_to(tmp_path / "outside" / "deep")
    image = folder / "class0" / "000.png"
    image.rename(tmp_path / "outside" / "image.png")
    image.symlink_to(tmp_path / "outside" / "image.png")
    assert_same(ImageFolderSource(folder), SOURCE)
    (folder / "class3" / "again").symlink_to(folder / "class0")
    assert ImageFolderSource(folder).class_sizes.tolist() == [*SIZES[:3], SIZES[3] + SIZES[0]]
    (folder / "class0" / "round").symlink_to(folder / "class3")
    with pytest.raises(ValueError, match=r"again/round is a link .*|round/again is a link to a folder that it is in"):
        ImageFolderSource(folder)
    (folder / "class3" / "again").unlink()
    (folder / "class0" / "round").unlink()
    (folder / "class0" / ".hidden").symlink_to(folder)
    (folder / "class0" / "self").symlink_to(folder / "class0")
    with pytest.raises(ValueError, match=r"class0/self is a link to a folder that it is in, without end; remove it"):
        ImageFolderSource(folder)


def test_a_folder_that_cannot_be_listed_is_not_passed_over(folder, monkeypatch):
    scandir = os.scandir

    def forbidden(path):
        if os.fspath(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbidden)
    (folder / "class1" / "000.png").symlink_to(folder / "class0" / "000.png")
    with pytest.raises(PermissionError, match="class1/deep"):
        ImageFolderSource(folder)


def test_opening_an_image_folder_decodes_nothing(folder, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("an image was decoded"))
    source = ImageFolderSource(folder)
    assert source.class_sizes.tolist() == SIZES
    assert len(source.fingerprint) == 32
    dataset = CombinationMetaDataset(source, 2, dataset_transform=ClassSplitter(num_train_per_class=2))
    assert len(dataset.plan(0, range(3))) == 3
    with pytest.raises(pytest.fail.Exception, match="an image was decoded"):
        dataset.episodes([0])


def test_images_are_resized_and_converted_on_demand(folder):
    source = ImageFolderSource(folder, resize=(3, 4), mode="RGB")
    assert source.example_shape == (3, 4, 3)
    found = source.gather(np.array([2]), np.array([1]))[0]
    image = Image.fromarray(IMAGES[2][1, ..., 0]).convert("RGB").resize((4, 3), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(found, np.asarray(image))
    assert ImageFolderSource(folder, resize=5).example_shape == (5, 5, 1)
    np.testing.assert_array_equal(ImageFolderSource(folder, resize=6).gather(np.array(3), np.array(4)), IMAGES[3][4])


def test_the_fingerprint_of_a_folder_knows_bytes_names_and_preparation(folder, tmp_path):
    prints = [ImageFolderSource(folder, *arguments).fingerprint for arguments in ((), (5,), (None, "RGB"), (None, "L"))]
    prints.append(ImageFolderSource(folder).select([1, 0]).fingerprint)
    prints.append(ImageFolderSource(folder).select([0, 1]).fingerprint)
    (folder / "class3").rename(folder / "class4")
    prints.append(ImageFolderSource(folder).fingerprint)
    (folder / "class4").rename(folder / "class3")
    (folder / "class2/001.PNG").rename(folder / "class2/+.PNG")
    prints.append(ImageFolderSource(folder).fingerprint)
    (folder / "class2/+.PNG").rename(folder / "class2/001.PNG")
    assert len(set(prints)) == len(prints)
    assert ImageFolderSource(folder).fingerprint == prints[0]
    folder.rename(tmp_path / "elsewhere")
    assert ImageFolderSource(tmp_path / "elsewhere").fingerprint == prints[0], "where a folder is does not matter"


def test_an_image_folder_pickles_and_works_from_another_folder(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder.parent)
    source = ImageFolderSource("images").select([3, 1])
    monkeypatch.chdir("/")
    copy = pickle.loads(pickle.dumps(source))
    assert tuple(copy.class_names) == ("class3", "class1")
    assert_same(copy, SOURCE.select([3, 1]))
    assert copy.fingerprint == source.fingerprint


@pytest.mark.parametrize(
    ("spoil", "read", "message"),
    [
        (
            lambda f: Image.new("L", (7, 6)).save(f / "class1/deep/er/002.png"),
            True,
            r"first has \(6, 6, 1\) uint8.*002",
        ),
        (
            lambda f: Image.new("RGB", (6, 6)).save(f / "class1/deep/er/002.png"),
            True,
            r"002\.png has \(6, 6, 3\).*resiz",
        ),
        (lambda f: Image.new("P", (6, 6)).save(f / "class1/deep/er/002.png"), True, r"002\.png.*got 'P'; pass .*mode="),
        (lambda f: Image.new("CMYK", (6, 6)).save(f / "class0/0.jpg"), False, r"0\.jpg cannot be read: .* got 'CMYK'"),
        (lambda f: (f / "class0/0.png").write_text("no"), False, r"0\.png is no image that Pillow can read; remove"),
        (lambda f: (f / "class9").mkdir(), False, r"every class needs at least one image, .*class9 holds none"),
        (
            lambda f: (f / "class1/deep/er/002.png").write_bytes((f / "class1/deep/er/002.png").read_bytes()[:60]),
            True,
            r"002\.png cannot be read",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_with_the_file(folder, spoil, read, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        everything(ImageFolderSource(folder)) if read else ImageFolderSource(folder)


@pytest.mark.parametrize("size", [(5, 6), (6, 5)])
@pytest.mark.parametrize(("mode", "value"), [(None, [0, 255]), ("L", [0, 255]), ("RGB", [0, 255])])
def test_images_of_one_bit_are_grey(tmp_path, mode, value, size):
    """As Omniglot's own are."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("1", size, name == "b").save(tmp_path / name / "0.png")
    source = ImageFolderSource(tmp_path, mode=mode)
    assert source.example_shape == (*size[::-1], 3 if mode == "RGB" else 1)
    assert [int(source.gather(np.array([c]), np.array([0])).max()) for c in range(2)] == value
    pairs = [(Image.new("1", (5, 5), c), c) for c in range(2)]
    assert LabelledSource(pairs).gather(np.array([1]), np.array([0])).tolist() == np.full((1, 5, 5, 1), 255).tolist()
    assert ImageFolderSource(tmp_path, mode=mode, resize=3).gather(np.array([1]), np.array([0])).min() == 255


NO_FILES = {
    "a named pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/null"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_not_opened(folder, kind):
    path = folder / "class1" / "pipe.png"
    NO_FILES[kind](path)
    with pytest.raises(ValueError, match=rf"{path} must be a file, it is {kind}; remove it"):
        ImageFolderSource(folder)
    path.unlink()
    source = ImageFolderSource(folder)
    first = folder / "class0" / "000.png"
    first.unlink()
    NO_FILES[kind](first)
    for read in (everything, lambda source: source.fingerprint):
        with pytest.raises(ValueError, match=rf"{first} must be a file, it is {kind}"):
            read(source)
    first.unlink()
    with pytest.raises(FileNotFoundError, match=str(first)):
        everything(source)
    first.symlink_to("nowhere")
    with pytest.raises(ValueError, match=f"{first} is a link to nothing; remove it"):
        ImageFolderSource(folder)


@pytest.mark.parametrize("error", [IndexError("a"), struct.error("a"), TypeError("a"), ZeroDivisionError("a")])
@pytest.mark.parametrize("place", ["open", "convert"])
def test_whatever_pillow_says_of_a_broken_image_the_file_is_named(folder, monkeypatch, error, place):
    """Pillow 12 raises each of these for some metadata."""
    source = ImageFolderSource(folder, mode="RGB")

    def fail(*arguments, **more):
        raise error

    monkeypatch.setattr(*((Image, "open", fail) if place == "open" else (Image.Image, "convert", fail)))
    with pytest.raises(ValueError, match=rf"class0/000\.png cannot be read: {type(error).__name__}: a"):
        everything(source)


CHANGED = r"000\.png was changed since the source was opened; open the folder again, with ImageFolderSource\('"


@pytest.mark.parametrize("change", ["content", "time"])
def test_a_folder_that_changed_since_it_was_opened_is_refused(folder, change):
    """The plans would be the same, their examples others."""
    source = ImageFolderSource(folder).select([2, 0])
    content = pickle.dumps(CombinationMetaDataset(source, 2, dataset_transform=ClassSplitter(num_train_per_class=1)))
    path = folder / "class0" / "000.png"
    if change == "content":
        state = path.stat()
        path.write_bytes(path.read_bytes() + b"0")
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    else:
        os.utime(path, (1, 1))
    reopened = pickle.loads(content)
    for read in (everything, lambda source: source.fingerprint):
        for each in (source, reopened.source):
            with pytest.raises(ValueError, match=CHANGED):
                read(each)
    with pytest.raises(ValueError, match=CHANGED):
        reopened.episodes(range(20))
    everything(ImageFolderSource(folder))


def test_lazy_sources_have_bounds_too(folder):
    labels = np.repeat(range(4), SIZES)
    for source in (ImageFolderSource(folder), LabelledSource(np.concatenate(IMAGES), labels)):
        for class_id, example_id in ((1, 7), (1, -1), (4, 0), (-1, 0)):
            with pytest.raises(IndexError, match="must lie in"):
                source.gather(np.array([0, class_id]), np.array([0, example_id]))


@pytest.mark.parametrize("shape", [(3, 32, 32), (3, 32, 40), (1, 40, 32), (4, 17, 90)])
def test_images_with_channels_in_front_are_refused_whatever_their_sides(shape):
    with pytest.raises(ValueError, match=r"which looks like \(channels, H, W\); pass images\.transpose\(0, 2, 3, 1\)"):
        ArraySource.from_classes({"a": np.zeros((2, *shape), np.uint8)})
    if shape[1] != shape[2]:
        assert ArraySource.from_classes({"a": np.zeros((2, *shape), np.float32)}).example_shape == shape


def test_a_folder_must_exist_and_hold_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        ImageFolderSource(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"must hold one folder per class, .* holds no folder"):
        ImageFolderSource(tmp_path)


def png_of_16_bits(path, pixel):
    """A PNG file of one colour of 16 bits a channel, which Pillow reads and does not write."""
    height, width, row = 4, 5, b"\0" + struct.pack(">3H", *pixel) * 5
    header = struct.pack(">2I5B", width, height, 16, 2, 0, 0, 0)
    parts = {b"IHDR": header, b"IDAT": zlib.compress(row * height), b"IEND": b""}
    chunks = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in parts.items()]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def turned(path):
    """Stored in landscape, to be shown in portrait."""
    image = Image.new("RGB", (5, 4), (10, 20, 30))
    image.putpixel((0, 0), (200, 100, 50))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


def in_palette(path, **options):
    image = Image.new("P", (5, 4))
    image.putpalette([200, 100, 50, 10, 20, 30])
    image.save(path, **options)


def of_two_frames(path):
    frames = [Image.new("RGB", (5, 4), colour) for colour in ((200, 100, 50), (0, 0, 0))]
    frames[0].save(path, save_all=True, append_images=frames[1:])


FILES = {
    "turned by EXIF": ("png", turned, "RGB", [200, 100, 50]),
    "half transparent": (
        "png",
        lambda p: Image.new("RGBA", (5, 4), (200, 100, 50, 128)).save(p),
        "RGB",
        [200, 100, 50],
    ),
    "wholly transparent": (
        "png",
        lambda p: Image.new("RGBA", (5, 4), (200, 100, 50, 0)).save(p),
        "RGB",
        [200, 100, 50],
    ),
    "transparent, kept": (
        "png",
        lambda p: Image.new("RGBA", (5, 4), (200, 1, 50, 128)).save(p),
        "RGBA",
        [200, 1, 50, 128],
    ),
    "grey and transparent": ("png", lambda p: Image.new("LA", (5, 4), (90, 0)).save(p), "L", [90]),
    "a palette": ("png", in_palette, "RGB", [200, 100, 50]),
    "a palette, to grey": ("png", in_palette, "L", [124]),
    "a transparent palette": ("png", lambda p: in_palette(p, transparency=b"\0\x80"), "RGB", [200, 100, 50]),
    "a transparent palette, to grey": ("png", lambda p: in_palette(p, transparency=b"\0\x80"), "L", [124]),
    "a transparent palette, kept": ("png", lambda p: in_palette(p, transparency=b"\x80"), "RGBA", [200, 100, 50, 128]),
    "black and white": ("png", lambda p: Image.new("1", (5, 4), 1).save(p), "L", [255]),
    "CMYK": ("tif", lambda p: Image.new("CMYK", (5, 4), (255, 0, 0, 0)).save(p), "RGB", [0, 255, 255]),
    "colours of 16 bits": ("png", lambda p: png_of_16_bits(p, (0x12FF, 0x3400, 0x5680)), "RGB", [0x12, 0x34, 0x56]),
    "two frames": ("tif", of_two_frames, "RGB", [200, 100, 50]),
}


@pytest.mark.parametrize("kind", FILES)
def test_stored_pixels_are_taken_as_pillow_converts_them(tmp_path, kind):
    """Neither turned nor blended, without a warning, and as torchvision's `ImageFolder` reads them."""
    suffix, save, mode, expected = FILES[kind]
    (tmp_path / "class").mkdir()
    path = tmp_path / "class" / f"0.{suffix}"
    save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = ImageFolderSource(tmp_path, mode=mode)
        found = source.gather(np.array(0), np.array(0))
        with Image.open(path) as image:
            again = LabelledSource([image], [0], mode=mode).gather(np.array(0), np.array(0))
    assert found.shape == source.example_shape == (4, 5, len(expected))
    assert found[0, 0].tolist() == expected
    np.testing.assert_array_equal(again, found)
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(np.asarray(image.convert(mode)).reshape(found.shape), found)


@pytest.mark.parametrize("resize", [0, -1, (3,), (3, 0), (3, 4, 5), (True, 3), (2.0, 3)])
def test_impossible_sizes_and_modes_are_refused(resize):
    with pytest.raises(ValueError, match="`resize` must be a positive side or a pair"):
        LabelledSource([1], [0], resize=resize)
    with pytest.raises(ValueError, match="`mode` must be one of 'L', 'RGB', 'RGBA', got 'YCbCr'"):
        ImagePreparation("YCbCr")


# Labelled datasets

LABELS = [c for c, size in enumerate(SIZES) for _ in range(size)]
ORDER = np.random.default_rng(0).permutation(len(LABELS))
MIXED = [LABELS[i] for i in ORDER]
PIXELS = [np.concatenate(IMAGES)[i] for i in ORDER]
GROUPED = ArraySource.from_labels(np.stack(PIXELS), MIXED, SOURCE.class_names)


class Pairs:
    """A map-style dataset that counts how often it is read."""

    def __init__(self, make=lambda image: image, hidden=MIXED, **attributes):
        self.make, self.hidden, self.reads = make, hidden, 0
        self.__dict__.update(attributes)

    def __len__(self):
        return len(PIXELS)

    def __getitem__(self, index):
        if not 0 <= index < len(PIXELS):
            raise IndexError(index)
        self.reads += 1
        return self.make(PIXELS[index]), self.hidden[index]


class Columns(Pairs):
    """As a `datasets.Dataset`: examples are dictionaries, columns are read without decoding."""

    column_names = ("img", "fine")

    @property
    def features(self):
        return {"img": SimpleNamespace(), "fine": SimpleNamespace(names=list(SOURCE.class_names))}

    def __getitem__(self, index):
        if isinstance(index, str):
            return {"fine": self.hidden}[index]
        image, label = super().__getitem__(index)
        return {"img": image, "fine": label}


def pillow(image):
    return Image.fromarray(image[..., 0])


class Tensor:
    """As much of a `torch.Tensor` as is looked at: the core must not import torch."""

    def __init__(self, array):
        self.array = array

    def detach(self):
        return self

    cpu = detach

    def numpy(self):
        return self.array


FORMS = {
    "arrays (H, W, C)": lambda image: image,
    "arrays (H, W)": lambda image: image[..., 0],
    "Pillow images": pillow,
    "float arrays": lambda image: image.astype(np.float32) / np.float32(255),
    "float64 arrays": lambda image: image / 255,
    "lists of integers": lambda image: image[..., 0].astype(int).tolist(),
    "tensors (C, H, W)": lambda image: Tensor(image.transpose(2, 0, 1)),
    "float tensors": lambda image: Tensor(image.transpose(2, 0, 1).astype(np.float32) / np.float32(255)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_images_gives_the_same_source(form):
    source = LabelledSource(Pairs(FORMS[form]), MIXED, SOURCE.class_names)
    assert repr(source) == "LabelledSource(4 classes, 18 examples of shape (6, 6, 1), uint8)"
    assert_same(source, GROUPED)
    assert source.fingerprint == GROUPED.fingerprint


def test_channels_of_tensors_and_arrays_end_up_last():
    image = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    for form in (image, Image.fromarray(image), Tensor(image.transpose(2, 0, 1))):
        np.testing.assert_array_equal(ImagePreparation()(form), image)


def test_floats_are_rounded_to_the_nearest_byte():
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    for dtype in (np.float16, np.float32, np.float64):
        np.testing.assert_array_equal(ImagePreparation()((every / 255).astype(dtype)), every)
    assert ImagePreparation()(np.array([[0.5, 0.999, 0.001]])).ravel().tolist() == [128, 255, 0]


def test_features_stay_what_they_are():
    features = [(np.array([i, -i], dtype=np.float32), i % 2) for i in range(6)]
    source = LabelledSource(features, progress=False)
    assert (source.example_shape, source.dtype, source.class_names) == ((2,), np.float32, ("0", "1"))
    assert source.gather(np.array([1]), np.array([2])).tolist() == [[5, -5]]


LABEL_HOLDERS = {
    "an argument": lambda: (Pairs(), {"labels": MIXED, "class_names": SOURCE.class_names}),
    "targets": lambda: (Pairs(targets=MIXED, classes=list(SOURCE.class_names)), {}),
    "_labels": lambda: (Pairs(_labels=np.array(MIXED)), {"class_names": SOURCE.class_names}),
    "labels": lambda: (Pairs(labels=tuple(MIXED), classes=SOURCE.class_names), {}),
    "a column": lambda: (Columns(), {"image_column": "img", "label_column": "fine"}),
}


@pytest.mark.parametrize("holder", LABEL_HOLDERS)
def test_labels_are_found_without_decoding(holder):
    dataset, arguments = LABEL_HOLDERS[holder]()
    source = LabelledSource(dataset, **arguments)
    assert dataset.reads == 1, "the first example tells the shape"
    assert_same(source, GROUPED)


def test_the_labels_of_a_subset_are_the_part_of_the_whole_s():
    whole = Pairs(targets=MIXED, classes=SOURCE.class_names)
    inner = SimpleNamespace(dataset=whole, indices=list(range(0, 18, 2)))
    assert labels_of(inner).tolist() == MIXED[::2]

    class Subset:
        dataset, indices = inner, [3, 1]

        def __len__(self):
            return 2

        def __getitem__(self, index):
            return whole[inner.indices[self.indices[index]]]

    source = LabelledSource(Subset())
    assert source.class_names == tuple(f"class{c}" for c in sorted({MIXED[6], MIXED[2]}))
    assert whole.reads == 1


@pytest.mark.parametrize("label", [lambda c: c, np.int64, lambda c: np.array(c), lambda c: f"class{c}"])
def test_other_labels_are_scanned_without_a_warning(label, capsys):
    dataset = Pairs(hidden=[label(c) for c in MIXED], targets="not labels", _labels=[1, 2], labels=len)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = LabelledSource(dataset)
    assert dataset.reads == 18 + 1
    assert "reading labels" in capsys.readouterr().err
    assert_same(rename_classes(source, lambda name: f"class{name[-1]}"), GROUPED)
    LabelledSource(Pairs(), progress=False)
    assert capsys.readouterr().err == ""


def test_names_that_do_not_fit_the_labels_are_left_alone():
    for classes in (["a", "b"], [("a", "b")] * 4, None, "abcd"):
        assert LabelledSource(Pairs(targets=MIXED, classes=classes)).class_names == ("0", "1", "2", "3")


NAMES = list(SOURCE.class_names)
NUMBERS = ("0", "1", "2", "3")


@pytest.mark.parametrize(
    ("dataset", "labels", "names"),
    [
        (lambda: Pairs(targets=MIXED, classes=NAMES), MIXED, SOURCE.class_names),
        (lambda: Pairs(targets=MIXED, classes=[*NAMES, "empty"]), np.array(MIXED), SOURCE.class_names),
        (lambda: Pairs(targets=[0] * 18, classes=NAMES), MIXED, NUMBERS),
        (lambda: Pairs(targets=MIXED, classes=NAMES), [f"{c}" for c in MIXED], NUMBERS),
        (lambda: Pairs(classes=NAMES), MIXED, SOURCE.class_names),
        (lambda: Pairs(classes=[*NAMES, "another"]), MIXED, NUMBERS),
        (lambda: Pairs(classes=NAMES[:3]), MIXED, NUMBERS),
        (lambda: Pairs(targets=[[1], [2, 3]] * 9, classes=NAMES), MIXED, SOURCE.class_names),
        (lambda: Pairs(classes=["no", "yes"]), [c > 1 for c in MIXED], ("no", "yes")),
    ],
)
def test_with_labels_the_dataset_s_names_are_taken_if_they_are_its_own(dataset, labels, names):
    """Coarse labels, such as CIFAR-100's, are positions in the list of fine names too."""
    dataset = dataset()
    assert LabelledSource(dataset, labels).class_names == names
    assert dataset.reads == 1
    if not isinstance(labels[0], str):
        assert LabelledSource(dataset, labels, class_names=list("abcd")).class_names == tuple("abcd")[: len(names)]


def test_with_labels_the_names_of_a_column_are_taken_if_they_are_its_own():
    def names(labels, **columns):
        return LabelledSource(Columns(), labels, image_column="img", **columns).class_names

    assert names(MIXED, label_column="fine") == SOURCE.class_names
    assert names(MIXED[::-1], label_column="fine") == NUMBERS
    assert names(MIXED, label_column="coarse") == NUMBERS


NAN = float("nan")
WRONG_LABELS = {
    "NaN": ([0.0, NAN, 1.0], "must be finite, got nan at position 1; leave examples without a label out"),
    "infinity": (np.array([0, 1, np.inf]), "must be finite, got inf at position 2"),
    "NaN in a column of strings": (["a", NAN, "b"], "all numbers or all strings, got 'a' and nan; .* leave"),
    "NaN in a column of objects": (np.array(["a", NAN, "b"], dtype=object), "got 'a' and nan"),
    "None": ([0, None, 1], "integers, strings or floats, got None among them, at position 1; convert .* leave"),
    "numbers and strings": ([1, "1", 2], "must be all numbers or all strings, got 1 and '1'"),
    "text and bytes": (["a", b"a", "b"], "must be all numbers or all strings, got 'a' and b'a'"),
    "objects": ([{"a"}, {"b"}, {"c"}], r"integers, strings or floats, got \{'a'\} among them, at position 0"),
    "dates": (
        np.array(["2020", "2021", "2020"], "M8[Y]"),
        r"got (datetime64\[Y\]; convert|datetime.date\(2020, 1, 1\) .*; convert)",
    ),
    "complex numbers": ([1j, 2j, 3j], "must be integers, strings or floats, got complex128"),
    "one-hot vectors": (np.eye(3), r"one label per example, got an array of shape \(3, 3\)"),
    "-1 next to 0": ([0, -1, -1], "must not be −1, which marks .* got 2 of them, the first at position 1; leave"),
}


@pytest.mark.parametrize("kind", WRONG_LABELS)
def test_labels_that_are_none_are_refused(kind):
    labels, message = WRONG_LABELS[kind]
    with pytest.raises(ValueError, match=message):
        LabelledSource(PIXELS[:3], labels)
    if np.ndim(labels) == 1:
        with pytest.raises(ValueError, match=message):
            LabelledSource(list(zip(PIXELS, list(labels), strict=False)), progress=False)


def test_unlabelled_examples_of_a_dataset_with_names_are_refused():
    for labels in ([-1] * 18, [-1, *MIXED[1:]]):
        for make in (
            lambda labels=labels: LabelledSource(Pairs(targets=labels, classes=NAMES)),
            lambda labels=labels: LabelledSource(Pairs(classes=NAMES), labels),
            lambda labels=labels: LabelledSource(Columns(hidden=labels), image_column="img", label_column="fine"),
        ):
            with pytest.raises(ValueError, match=r"`labels` must not be −1, .* the first at position 0"):
                make()


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1, -1, 1], ("-1", "1")),
        ([7, -3, 7], ("-3", "7")),
        ([True, False, True], ("False", "True")),
        (np.array([2**64 - 1, 0, 2**63], np.uint64), ("0", str(2**63), str(2**64 - 1))),
        (np.array([2, 0, 1], np.uint64), ("0", "1", "2")),
        ([2**63, -5, 2**63 + 1], ("-5", str(2**63), str(2**63 + 1))),
        ([10**30, 3, 10**30], ("3", str(10**30))),
        (np.array([2, 1, 2], dtype=object), ("1", "2")),
        ([0.5, 2, 0.5], ("0.5", "2.0")),
        ([b"b", b"a", b"b"], ("a", "b")),
        (["-1", "0", "0"], ("-1", "0")),
    ],
)
def test_every_other_label_names_a_class(labels, names):
    assert LabelledSource(PIXELS[:3], labels).class_names == names
    assert ArraySource.from_labels(np.stack(PIXELS[:3]), labels).class_names == names


WHOLE = st.one_of(st.integers(-3, 3), st.integers(-(2**70), 2**70), st.sampled_from([2**53, 2**53 + 1, 2**63, 2**64]))


@given(st.lists(WHOLE, min_size=1, max_size=20))
def test_integers_of_any_size_are_grouped_by_value(labels):
    names, sizes, order = group_labels(labels)
    values = sorted(set(labels))
    assert names == tuple(map(str, values))
    assert sizes.tolist() == [labels.count(value) for value in values]
    expected = sorted(range(len(labels)), key=labels.__getitem__)
    assert (list(range(len(labels))) if order is None else order.tolist()) == expected


@given(st.lists(st.one_of(WHOLE, st.text("ab1", max_size=2), st.none(), st.just(NAN), st.booleans()), max_size=6))
def test_different_labels_are_never_made_one(labels):
    try:
        found = label_array(labels)
    except ValueError:
        assert {None, NAN} & set(labels) or len({isinstance(label, str) for label in labels}) == 2
        return
    assert found.tolist() == labels
    assert len(group_labels(labels)[0]) == len(set(labels))


def test_a_labelled_source_resizes_and_converts():
    for form in (pillow, FORMS["arrays (H, W)"], FORMS["float tensors"]):
        source = LabelledSource(Pairs(form), MIXED, resize=(3, 4), mode="RGB")
        expected = pillow(PIXELS[0]).convert("RGB").resize((4, 3), Image.Resampling.LANCZOS)
        at = MIXED[0], MIXED[:1].count(MIXED[0]) - 1
        np.testing.assert_array_equal(source.gather(*map(np.array, at)), np.asarray(expected))


def test_with_an_identity_nothing_is_read_for_the_fingerprint():
    def named(identity="cifar-10 2009", labels=MIXED, **more):
        source = LabelledSource(dataset := Pairs(), labels, identity=identity, **more)
        return source, dataset

    source, dataset = named()
    first = source.fingerprint
    assert dataset.reads == 1
    prints = [first, source.select([1, 0]).fingerprint, source.select([0, 1]).fingerprint]
    prints += [named("cifar-10 2010")[0].fingerprint, named(resize=4)[0].fingerprint, named(mode="RGB")[0].fingerprint]
    prints += [named(labels=MIXED[::-1])[0].fingerprint, named(class_names=list("abcd"))[0].fingerprint]
    prints.append(LabelledSource(Pairs(), MIXED).fingerprint)
    assert len(set(prints)) == len(prints)
    assert named()[0].fingerprint == first


def test_selections_of_a_labelled_source_are_sources(tmp_path):
    source = LabelledSource(Pairs(), MIXED, SOURCE.class_names)
    assert source.fingerprint == GROUPED.fingerprint, "also before, so that a cached one is not handed on"
    some = source.select([2, 0, 3]).select([1, 2])
    assert_same(some, GROUPED.select([0, 3]))
    assert some.fingerprint == GROUPED.select([0, 3]).fingerprint
    assert pickle.loads(pickle.dumps(LabelledSource(PIXELS, MIXED))).fingerprint


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: LabelledSource(iter([])),
            TypeError,
            r"must have len\(dataset\) and dataset\[i\], got list_iterator; m",
        ),
        (lambda: LabelledSource([]), ValueError, "`dataset` must hold at least one example"),
        (lambda: LabelledSource(Pairs(), [0, 1]), ValueError, "one entry per example, got 2 for 18 examples"),
        (lambda: LabelledSource(Pairs(), np.zeros((18, 2))), ValueError, r"one label per example, got .* \(18, 2\)"),
        (
            lambda: LabelledSource(PIXELS, progress=False),
            ValueError,
            r"pair \(image, label\) .* ndarray; pass `labels`",
        ),
        (
            lambda: LabelledSource(Columns(), MIXED),
            ValueError,
            "`image_column` must be one of 'img', 'fine', got 'image'",
        ),
        (lambda: LabelledSource(Columns()), ValueError, "`label_column` must be one of 'img', 'fine', got 'label'"),
        (
            lambda: LabelledSource([{"image": PIXELS[0], "y": 1}], progress=False),
            ValueError,
            "`label_column` must be one of 'image', 'y', got 'label'",
        ),
        (
            lambda: LabelledSource(Pairs(lambda image: image - 200.0), MIXED),
            ValueError,
            r"`dataset\[0\]`: an image must be uint8, or floats in \[0, 1\], got float64 .*; take normalisation out",
        ),
        (lambda: LabelledSource(Pairs(lambda i: i > 3), MIXED), ValueError, "uint8, or floats .* got bool"),
        (lambda: LabelledSource(Pairs(lambda i: i * np.nan), MIXED), ValueError, r"got float64 in \[nan, nan\]"),
        (lambda: LabelledSource(Pairs(lambda i: i[None]), MIXED), ValueError, r"`dataset\[0\]`: .*\(1, 6, 6, 1\)"),
        (
            lambda: LabelledSource(Pairs(lambda i: 3), MIXED),
            TypeError,
            "must be uint8 images or floating-point .* int64",
        ),
        (lambda: LabelledSource(Pairs(), MIXED, ["a", "b"]), ValueError, r"labels must be integers in \[0, 2\)"),
        (lambda: LabelledSource(Pairs(), MIXED, list("aabc")), ValueError, "must be distinct, 'a' appears twice"),
    ],
)
def test_datasets_that_give_no_source_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_image_of_another_size_is_named_when_it_is_read():
    dataset = Pairs(lambda image: image[:, : 5 if image is PIXELS[7] else 6])
    source = LabelledSource(dataset, MIXED)
    with pytest.raises(ValueError, match=r"the first has \(6, 6, 1\) uint8, `dataset\[7\]` has \(6, 5, 1\) uint8; for"):
        everything(source)


def test_episodes_come_from_any_of_these_sources(folder):
    def digest(source):
        dataset = CombinationMetaDataset(source, 3)
        return ClassSplitter(dataset, num_train_per_class=1, num_test_per_class=1).episodes(range(6)).digest()

    lazily = LabelledSource(Pairs(), MIXED, SOURCE.class_names)
    assert digest(lazily) == digest(GROUPED)
    assert digest(ImageFolderSource(folder)) == digest(SOURCE) == digest(in_memory(ImageFolderSource(folder), False))


# Labels in tables


@given(st.lists(st.integers(-3, 200), max_size=60), st.sampled_from([np.int64, np.uint8, np.int16, str, float]))
def test_grouping_is_a_stable_sort(labels, kind):
    labels = [abs(label) if kind is np.uint8 else label for label in labels]
    given_labels = np.array(labels, dtype=kind) if labels else np.zeros(0, int)
    names, sizes, order = group_labels(given_labels)
    values = sorted(set(given_labels.tolist()))
    assert names == tuple(map(str, values))
    assert sizes.tolist() == [given_labels.tolist().count(value) for value in values]
    expected = sorted(range(len(labels)), key=lambda i: given_labels.tolist()[i])
    assert (list(range(len(labels))) if order is None else order.tolist()) == expected
    assert (order is None) == (expected == list(range(len(labels))) and bool(labels)) or not labels


def test_grouping_more_classes_than_16_bits_count():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(70_000) * 3, 2))
    names, sizes, order = group_labels(labels)
    assert (len(names), names[-1], set(sizes.tolist())) == (70_000, "209997", {2})
    np.testing.assert_array_equal(order, np.argsort(labels, kind="stable"))


def test_labels_in_an_array_of_objects_are_looked_at():
    assert group_labels(np.array(["b", "a", "b"], dtype=object))[0] == ("a", "b")
    assert group_labels(np.array([2, 1], dtype=object), ["0", "1", "2"])[0] == ("1", "2")
    with pytest.raises(ValueError, match="`labels` must be integers, strings or floats, got None among them"):
        group_labels([1, None, 2])


def test_examples_that_come_class_by_class_are_not_copied():
    examples = np.zeros((6, 4))
    assert np.shares_memory(ArraySource.from_labels(examples, [0, 0, 1, 1, 2, 2]).examples, examples)
    assert not np.shares_memory(ArraySource.from_labels(examples, [0, 1, 0, 1, 2, 2]).examples, examples)


# The user's own split


@given(
    st.integers(3, 60),
    st.lists(st.sampled_from([0.05, 0.1, 0.16, 0.2, 0.25, 0.33, 0.5, 0.64]), min_size=1, max_size=4),
    st.integers(-3, 3),
)
def test_fractions_divide_the_classes(number, shares, seed):
    source = ArraySource.from_classes({f"c{i}": np.full((1, 1), i) / 1 for i in range(number)})
    fractions = {f"part{i}": share for i, share in enumerate(shares)}
    exact = np.cumsum([round(share * 100) for share in shares]).tolist()
    ends = [(2 * end * number + 100) // 200 for end in exact]
    if exact[-1] > 100 or any(a == b for a, b in itertools.pairwise([0, *ends])):
        with pytest.raises(ValueError, match=r"must sum to at most 1|is no class; raise it"):
            split_classes(source, fractions=fractions, seed=seed)
        return
    parts = split_classes(source, fractions=fractions, seed=seed)
    assert list(parts) == list(fractions)
    assert [len(part) for part in parts.values()] == [b - a for a, b in itertools.pairwise([0, *ends])]
    names = [name for part in parts.values() for name in part.class_names]
    assert len(set(names)) == len(names)
    for part in parts.values():
        assert list(part.class_names) == sorted(part.class_names, key=lambda name: int(name[1:]))
    again = split_classes(source, fractions=fractions, seed=seed)
    assert [part.class_names for part in again.values()] == [part.class_names for part in parts.values()]


def test_a_fraction_is_the_decimal_number_that_was_written():
    """0.15 of 10 is one and a half, which is rounded up; in floating point it is a little less."""
    parts = split_classes(coded_source([1] * 10), fractions={"a": 0.15, "b": 0.85})
    assert [len(part) for part in parts.values()] == [2, 8]


def test_a_split_by_fraction_is_promised():
    """These are a function of the seed and the number of classes, like episodes; they change only with the scheme."""
    source = ArraySource.from_classes({f"{i}": np.zeros((1, 1)) for i in range(12)})
    parts = split_classes(source, fractions={"train": 0.5, "val": 0.25, "test": 0.25}, seed=7)
    assert {name: " ".join(part.class_names) for name, part in parts.items()} == SPLIT_OF_SEED_7
    other = split_classes(source, fractions={"train": 0.5, "val": 0.25, "test": 0.25}, seed=8)
    assert other["train"].class_names != parts["train"].class_names


SPLIT_OF_SEED_7 = {"train": "1 3 7 8 10 11", "val": "2 5 6", "test": "0 4 9"}


@pytest.mark.parametrize("share", [1 / 3, 0.1, 0.7])
def test_shares_that_make_the_whole_lose_no_class(share):
    source = coded_source([1] * 9)
    rest = {"b": 1 - share} if share == 0.7 else {f"b{i}": share for i in range(round(1 / share) - 1)}
    if share == 0.1:
        source = coded_source([1] * 20)
    parts = split_classes(source, fractions={"a": share, **rest})
    assert sum(map(len, parts.values())) == len(source)


def test_lists_of_classes_divide_in_the_order_they_are_given():
    parts = split_classes(SOURCE, classes={"test": ["class3"], "train": ["class2", "class0"]})
    assert {name: tuple(part.class_names) for name, part in parts.items()} == {
        "test": ("class3",),
        "train": ("class2", "class0"),
    }
    assert_same(parts["train"], SOURCE.select([2, 0]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, TypeError, "either `classes` or `fractions`"),
        ({"classes": {}, "fractions": {}}, TypeError, "either `classes` or `fractions`"),
        ({"classes": {"train": ["class9"]}}, ValueError, r"`classes\['train'\]` must .* no class is called 'class9'"),
        (
            {"classes": {"train": ["class1"], "val": ["class1"]}},
            ValueError,
            "'class1' is in 'train' and here, in 'val'",
        ),
        ({"classes": {"train": ["class1", "class1"]}}, ValueError, "'class1' is in 'train' and here"),
        ({"classes": {"train": "class1"}}, ValueError, "must be a list of at least one class, got 'class1'"),
        ({"classes": {"train": []}}, ValueError, "at least one class"),
        ({"fractions": {"train": 0.8, "test": 0.3}}, ValueError, "`fractions` must sum to at most 1, got .*0.8"),
        ({"fractions": {"train": 0.9, "test": 0.1}}, ValueError, r"`fractions\['test'\]` = 0.1 of 4 classes is no cl"),
        ({"fractions": {"train": 0}}, ValueError, r"`fractions\['train'\]` must be a number in \(0, 1\], got 0"),
        ({"fractions": {"train": float("nan")}}, ValueError, "got nan"),
        ({"fractions": {"train": True}}, ValueError, "got True"),
        ({"fractions": {}}, ValueError, "`fractions` must name at least one meta-split"),
        ({"classes": {}}, ValueError, "`classes` must name at least one meta-split"),
        ({"fractions": {"train": 1.0}, "seed": 0.5}, TypeError, "`seed` must be an integer"),
    ],
)
def test_impossible_splits_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        split_classes(SOURCE, **arguments)


# Sources made of sources

OTHER = rename_classes(coded_source([3, 6, 8]), "other {}".format)


def test_a_union_holds_the_classes_of_all():
    together = union(SOURCE, OTHER, rename_classes(SOURCE, lambda name: f"again {name}"))
    expected = {**everything(SOURCE), **everything(OTHER)}
    expected |= {f"again {name}": images for name, images in everything(SOURCE).items()}
    assert_same(together, ArraySource.from_classes(expected))
    assert together.class_sizes.tolist() == [4, 7, 2, 5, 3, 6, 8, 4, 7, 2, 5]
    assert repr(together) == "<11 classes, 53 examples of shape (6, 6, 1), uint8>"
    classes, examples = np.array([[[9]], [[4]]]), np.array([[[0], [1]], [[2], [0]]])
    found = together.gather(classes, examples)
    assert found.shape == (2, 2, 1, 6, 6, 1)
    np.testing.assert_array_equal(found[1, 0, 0], everything(OTHER)["other class0"][2])


@given(st.lists(st.integers(0, 6), min_size=1, unique=True), st.data())
def test_selecting_from_a_union_in_any_order(ids, data):
    together = union(SOURCE, OTHER)
    expected = list({**everything(SOURCE), **everything(OTHER)}.items())
    some = together.select(ids)
    assert_same(some, ArraySource.from_classes(dict(expected[i] for i in ids)))
    inner = data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=1, unique=True))
    twice = some.select(inner)
    assert_same(twice, together.select([ids[i] for i in inner]))
    assert twice.fingerprint == together.select([ids[i] for i in inner]).fingerprint
    assert twice.fingerprint == in_memory(twice, progress=False).fingerprint
    renamed = rename_classes(twice, "my {}".format)
    assert renamed.fingerprint == in_memory(renamed, progress=False).fingerprint != twice.fingerprint


def test_views_of_a_source_without_digests_have_fingerprints_of_their_sources(folder):
    source, other = ImageFolderSource(folder), rename_classes(SOURCE, "other {}".format)
    prints = [
        union(source, other).fingerprint,
        union(other, source).fingerprint,
        union(source, other).select([0, 4, 1]).fingerprint,
        union(source, rename_classes(other, {"other class0": "zero"})).fingerprint,
        rename_classes(source, {"class0": "zero"}).fingerprint,
        rename_classes(source, {"class0": "one"}).fingerprint,
        rename_classes(source.select([1, 0]), {"class0": "zero"}).fingerprint,
        source.fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert union(source, other).fingerprint == prints[0]


def test_fingerprints_of_views_know_what_they_are_made_of():
    prints = [
        union(SOURCE, OTHER).fingerprint,
        union(OTHER, SOURCE).fingerprint,
        union(SOURCE, OTHER).select([0, 4, 1, 2, 3, 5, 6]).fingerprint,
        union(SOURCE, OTHER.select([1, 0, 2])).fingerprint,
        rename_classes(SOURCE, {"class0": "zero"}).fingerprint,
        rename_classes(SOURCE, {"class0": "one"}).fingerprint,
        rename_classes(SOURCE.select([0]), {"class0": "one"}).fingerprint,
        OTHER.fingerprint,
        SOURCE.fingerprint,
    ]
    assert len(set(prints)) == len(prints)
    assert union(SOURCE).fingerprint == SOURCE.fingerprint
    assert union(SOURCE, OTHER).select([3, 1]).fingerprint == SOURCE.select([3, 1]).fingerprint
    renamed = rename_classes(SOURCE, {"class2": "two", "class0": "zero"})
    assert renamed.select([2]).fingerprint == rename_classes(SOURCE.select([2]), {"class2": "two"}).fingerprint


def test_views_pickle_without_copying_a_store(tmp_path):
    store = save_source(SOURCE, tmp_path / "store.h5", {"from": "here"}, progress=False)
    assert isinstance(store, HDF5Source)
    assert store.provenance == {"from": "here"}
    assert store.fingerprint == SOURCE.fingerprint
    view = union(rename_classes(store, "my {}".format), store.select([1])).select([4, 0])
    content = pickle.dumps(view)
    assert len(content) < 2_500
    assert pickle.loads(content).fingerprint == view.fingerprint
    assert_same(pickle.loads(content), view)


@pytest.mark.parametrize(
    ("keep", "least", "names"),
    [
        (None, 1, ["class0", "class1", "class2", "class3"]),
        (None, 5, ["class1", "class3"]),
        (lambda name: name < "class2", 1, ["class0", "class1"]),
        (lambda name: name < "class2", 5, ["class1"]),
    ],
)
def test_filters_keep_order(keep, least, names):
    assert list(filter_classes(SOURCE, keep, least).class_names) == names
    assert_same(filter_classes(SOURCE, keep, least), SOURCE.select([int(name[-1]) for name in names]))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (union, TypeError, "`union` needs at least one source"),
        (lambda: union(SOURCE, SOURCE), ValueError, r"'class0' appears twice. Give one .* rename_classes\(source, "),
        (
            lambda: union(SOURCE, coded_source([1], side=5)),
            ValueError,
            r"one shape .*\(6, 6, 1\) uint8 and \(5, 5, 1\)",
        ),
        (
            lambda: filter_classes(SOURCE, min_examples=8),
            ValueError,
            "leave none of the 4 classes, whose largest has 7",
        ),
        (lambda: filter_classes(SOURCE, lambda name: False), ValueError, "leave none .*; the first one is 'class0'"),
        (lambda: rename_classes(SOURCE, {"x": "y"}), ValueError, "no class is called 'x'"),
        (lambda: rename_classes(SOURCE, lambda name: "y"), ValueError, "must be distinct, 'y' appears twice"),
        (lambda: rename_classes(SOURCE, {"class0": "class1"}), ValueError, "'class1' appears twice"),
        (lambda: union(SOURCE, OTHER).select([1, 1]), ValueError, "'class1' appears twice"),
        (lambda: union(SOURCE, OTHER).select([4, 1, 1]), ValueError, "'class1' appears twice"),
    ],
)
def test_impossible_views_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_copy_in_memory_shows_a_bar_if_asked(capsys):
    assert in_memory(OTHER).fingerprint == in_memory(OTHER, progress=False).fingerprint
    assert "17/17" in capsys.readouterr().err
    assert_same(in_memory(OTHER, False), OTHER)


def test_copies_are_made_in_bounded_blocks(monkeypatch, tmp_path):
    monkeypatch.setattr("metabridge.sources.copies._BLOCK_BYTES", 36 * 3)
    assert in_memory(SOURCE, False).fingerprint == SOURCE.fingerprint
    assert save_source(SOURCE, tmp_path / "store.h5", progress=False).recompute_fingerprint() == SOURCE.fingerprint


# Size


def calls_of(function):
    """How many functions, Python's and C's, are called while this one runs."""
    counted = itertools.count()
    sys.setprofile(lambda frame, event, argument: next(counted) if event.endswith("call") else None)
    try:
        function()
    finally:
        sys.setprofile(None)
    return next(counted)


def own_source(number, each=100):
    """`number` classes over an array that takes no memory, divided, renamed, joined and filtered."""
    examples = np.lib.stride_tricks.as_strided(np.zeros(2, np.uint8), (number * each, 2), (0, 1))
    sizes = np.full(number, each)
    source = ArraySource(examples, np.cumsum(sizes) - sizes, sizes, [f"class {i}" for i in range(number)])
    parts = split_classes(source, fractions={"train": 0.64, "val": 0.16, "test": 0.2})
    together = union(parts["train"], rename_classes(parts["test"], "test {}".format))
    return parts, filter_classes(together, min_examples=50)


def test_a_hundred_thousand_classes_and_ten_million_examples():
    """Planning costs the same whatever the number of classes, and no example is looked at."""
    counts, peaks = [], []
    for number in (1000, 100_000):
        parts, many = own_source(number)
        assert [len(part) for part in parts.values()] == [number * 64 // 100, number * 16 // 100, number * 20 // 100]
        dataset = ClassSplitter(CombinationMetaDataset(many, 5), num_train_per_class=1, num_test_per_class=15)
        dataset.plan(0, range(16))
        counts.append(calls_of(lambda dataset=dataset: dataset.plan(0, range(16))))
        tracemalloc.start()
        plan = dataset.plan(1, range(16))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert plan.classes.max() > 60_000
    assert counts[0] == counts[1]
    assert peaks[1] < 2 * peaks[0]


def test_a_million_labels_are_grouped_without_a_call_for_each():
    labels = np.repeat(np.arange(10_000), 100)
    examples = np.lib.stride_tricks.as_strided(np.zeros(2, np.uint8), (len(labels), 2), (0, 1))
    assert calls_of(lambda: LabelledSource(examples, labels, identity="zeros")) < 100_000


def test_own_data_needs_pillow_only_for_images():
    program = (
        "import sys; sys.modules['PIL'] = None; sys.modules['tqdm'] = None\nimport numpy as np\n"
        "from metabridge.sources import LabelledSource, union\n"
        "source = LabelledSource(np.zeros((6, 5, 5), np.uint8), [0, 1, 0, 1, 0, 1])\n"
        "print(len(source), source.gather(np.array([0]), np.array([2])).shape)"
    )
    assert run_python(program).stdout == "2 (1, 5, 5, 1)\n"


def test_equal_fractions_give_equal_splits_in_any_order():
    source = ArraySource.from_classes({f"c{i:02}": np.zeros((2, 3)) for i in range(40)})
    fractions = {"train": 0.6, "val": 0.2, "test": 0.2}
    first = split_classes(source, fractions=fractions, seed=0)
    second = split_classes(source, fractions=dict(sorted(fractions.items())), seed=0)
    assert list(second) == ["test", "train", "val"]
    for name in fractions:
        assert first[name].class_names == second[name].class_names


def test_images_of_more_than_8_bits_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / name / "0.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        ImageFolderSource(tmp_path, mode="L").gather(np.array([0]), np.array([0]))


def test_labels_of_bytes_are_text():
    source = LabelledSource(np.zeros((4, 2, 2, 1), np.uint8), labels=np.array([b"cat", b"dog", b"cat", b"dog"]))
    assert source.class_names == ("cat", "dog")


PICTURES = np.zeros((6, 32, 32, 3), np.uint8)
THREE_CLASSES = [0, 1, 2] * 2


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: ArraySource.from_labels(PICTURES.transpose(0, 3, 1, 2), THREE_CLASSES),
            ValueError,
            r"pass images\.transpose",
        ),
        (
            lambda: LabelledSource(PICTURES.transpose(0, 3, 1, 2), THREE_CLASSES),
            ValueError,
            r"looks like \(channels, H, W",
        ),
        (
            lambda: ArraySource.from_labels(PICTURES[..., 0], THREE_CLASSES),
            ValueError,
            r"got \(32, 32\); give them the axis",
        ),
        (lambda: ArraySource.from_classes([PICTURES, PICTURES]), TypeError, "`classes` must map .*, got list; write"),
        (lambda: LabelledSource({"train": PICTURES, "test": PICTURES}), TypeError, r"'test'; .* dataset\['train'\]"),
        (lambda: filter_classes(SOURCE, ["class1"]), TypeError, "`keep` must be a function .*, got list"),
        (lambda: split_classes(SOURCE, [0.6, 0.4]), TypeError, "`classes` must map meta-splits .*, got list"),
        (lambda: CombinationMetaDataset(PICTURES, 2), TypeError, "`source` must be a class source, got ndarray"),
    ],
)
def test_what_a_user_may_take_for_right_says_what_is(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("shape", [(32, 32, 1), (4, 6, 13), (1, 100, 6), (3, 5, 5), (3,), (1,)])
def test_images_and_vectors_of_other_shapes_are_taken(shape):
    assert ArraySource.from_labels(np.zeros((6, *shape), np.uint8), THREE_CLASSES).example_shape == shape


def test_features_may_have_any_axes_but_those_of_square_images():
    assert ArraySource.from_labels(np.zeros((6, 4, 20, 64), np.float32), THREE_CLASSES).example_shape == (4, 20, 64)
    with pytest.raises(ValueError, match=r"looks like \(channels, H, W"):
        ArraySource.from_labels(np.zeros((6, 3, 32, 32), np.float32), THREE_CLASSES)


def test_tensors_are_images_with_channels_in_front():
    torch = pytest.importorskip("torch")
    assert LabelledSource(torch.zeros(6, 3, 32, 20), THREE_CLASSES).example_shape == (32, 20, 3)
    with pytest.raises(ValueError, match=r"a tensor must be an image \(C, H, W\).*got \(32, 20, 3\)"):
        LabelledSource(torch.zeros(6, 32, 20, 3), THREE_CLASSES)
