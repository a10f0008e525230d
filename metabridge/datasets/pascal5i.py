"""Pascal-5i: few-shot segmentation of the twenty classes of Pascal VOC, in four folds of five new classes."""

import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from metabridge.archives.fetch import Archive
from metabridge.archives.matfiles import read_bytes_field
from metabridge.archives.members import Members, open_members
from metabridge.checks import is_count, require
from metabridge.datasets.benchmarks import Arguments, Benchmark, Content, StoredMetaDataset, Variant, split_table
from metabridge.datasets.images import decode, decoder
from metabridge.episodes.segmentation import SegmentationMetaDataset
from metabridge.transforms import IGNORED
from metabridge.transforms.geometry import nearest_positions

__all__ = ["PASCAL_5I", "Pascal5i", "read_pascal"]

VOC = Archive(
    "VOCtrainval_11-May-2012.tar",
    (
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        "https://pjreddie.com/media/files/VOCtrainval_11-May-2012.tar",
    ),
    "e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    1_999_639_040,
)
SBD = Archive(
    "benchmark.tgz",
    ("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",),
    md5="82b4d87ceb2ed10f6038a1cba92111cb",
)
IMAGES = {"train": 10_582, "test": 1_449}
"""Images with a mask: those of VOC 2012 train and of SBD that are not in VOC 2012 val; and those of val."""
FOLDS = 4
SMALLEST_OBJECT = 2 * 32 * 32
_ROLES = tuple(IMAGES)
_UNPACKED_BYTES = 16 << 30
_PATH = re.compile(r"(?:.*/)?(?:VOC2012|benchmark_RELEASE/dataset)/(?P<file>.+)")


@contextmanager
def read_pascal(
    paths: Sequence[Path], progress: bool, size: int, images: Mapping[str, int] = IMAGES
) -> Iterator[Content]:
    """Every image once for each class that it shows, with the mask of that class; masks are read first, then images.

    The masks of VOC where it has one, else those of SBD; less than `SMALLEST_OBJECT` pixels of a class do not count.
    """
    with ExitStack() as stack:
        files = _Files([stack.enter_context(open_members(path, max_total_bytes=_UNPACKED_BYTES)) for path in paths])
        ids = _ids_of_images(files, images)
        masks = _Masks(size)
        for name, content in files.stream(chain.from_iterable(map(_mask_files(files), ids["train"] + ids["test"])),
                                          "pascal5i masks", progress):  # fmt: skip
            read = _read_mat if name.endswith(".mat") else _read_png
            masks.add(Path(name).stem, read(content, name, files.owners[name][0].path))
        shown = {
            f"{role}/{label}": [image for image in ids[role] if number in masks.classes[image]]
            for role in _ROLES
            for number, label in enumerate(split_table("pascal5i")["classes"], start=1)
        }
        classes = {name: shown[name] for name in sorted(shown)}
        yield Content(
            class_names=tuple(classes),
            class_sizes=[len(each) for each in classes.values()],
            example_shape=(size, size, 4),
            dtype=np.uint8,
            blocks=_examples(files, masks, classes, progress),
            preparation=(
                f"{size}x{size} RGB by Pillow's bilinear filter, masks by the nearest pixel, the sides' proportion is "
                f"lost; objects of at least {SMALLEST_OBJECT} pixels; {decoder()}"
            ),
        )


class _Files:
    """The files of VOC 2012 and of SBD by their path in them, wherever the archives or folders have them."""

    def __init__(self, opened: Sequence[Members]) -> None:
        self.opened = opened
        self.paths = " and ".join(str(members.path) for members in opened)
        self.owners: dict[str, tuple[Members, str]] = {}
        for members in opened:
            for name in members.names:
                match = _PATH.fullmatch(name)
                if match is not None and self.owners.setdefault(match["file"], (members, name)) != (members, name):
                    raise ValueError(f"{self.paths} must hold {match['file']} once; pass one copy of each archive.")

    def read(self, file: str) -> bytes:
        """The bytes of one file."""
        if file not in self.owners:
            raise ValueError(
                f"{self.paths} must hold {VOC.name} and {SBD.name}, or what is in them as folders VOC2012 and "
                f"benchmark_RELEASE; {file} is missing."
            )
        members, name = self.owners[file]
        return members.read(name)

    def below(self, folder: str, ending: str) -> list[str]:
        """The names without ending of the files of one folder, sorted."""
        prefix = f"{folder}/"
        found = (name for name in self.owners if name.startswith(prefix) and name.endswith(ending))
        return sorted(name.removeprefix(prefix).removesuffix(ending) for name in found)

    def stream(self, files: Iterable[str], what: str, progress: bool) -> Iterator[tuple[str, bytes]]:
        """Names and bytes of files, each archive in its own order, under a progress bar on standard error."""
        from tqdm import tqdm

        wanted: dict[int, dict[str, str]] = {}
        for file in files:
            if file not in self.owners:
                self.read(file)  # says what is missing
            members, name = self.owners[file]
            wanted.setdefault(self.opened.index(members), {})[name] = file
        total = sum(map(len, wanted.values()))
        with tqdm(desc=what, total=total, unit="image", disable=not progress, file=sys.stderr) as bar:
            for position, names in wanted.items():
                for name, content in self.opened[position].stream(names):
                    yield names[name], content
                    bar.update()


def _ids_of_images(files: _Files, expected: Mapping[str, int]) -> dict[str, list[str]]:
    """The images of meta-training and of meta-testing, sorted."""
    train, val = (files.read(f"ImageSets/Segmentation/{part}.txt").decode("ascii").split() for part in ("train", "val"))
    extra = files.below("cls", ".mat")
    ids = {"train": sorted({*train, *extra} - set(val)), "test": sorted(val)}
    for role in _ROLES:
        if len(ids[role]) != expected[role]:
            raise ValueError(
                f"{files.paths} must hold masks of {expected[role]:,} images for meta-{role}, got {len(ids[role]):,}; "
                f"pass the whole {VOC.name} and {SBD.name}."
            )
    return ids


def _mask_files(files: _Files) -> Any:
    """From an image to the file of its mask: VOC's, which has outlines marked, or else SBD's."""

    def found(image: str) -> list[str]:
        drawn = f"SegmentationClass/{image}.png"
        return [drawn if drawn in files.owners else f"cls/{image}.mat"]

    return found


def _read_png(content: bytes, name: str, archive: Path) -> npt.NDArray[np.uint8]:
    """A mask of VOC: the colours of its palette are the classes."""

    def as_it_is(image: Any) -> Any:
        if image.mode != "P":
            raise ValueError(f"it must have a palette, its mode is {image.mode}")
        return image

    return _checked(decode(content, name, archive, "PNG", None, as_it_is)[..., 0], name, archive)


def _read_mat(content: bytes, name: str, archive: Path) -> npt.NDArray[np.uint8]:
    """A mask of SBD, a field of a MATLAB file."""
    try:
        mask = read_bytes_field(content, "GTcls", "Segmentation")
        if mask.ndim != 2:
            raise ValueError(f"its mask has shape {mask.shape}")
    except ValueError as error:
        raise ValueError(f"{archive}: {name!r} cannot be used ({error}); get the archive again.") from None
    return _checked(mask, name, archive)


def _checked(mask: npt.NDArray[np.uint8], name: str, archive: Path) -> npt.NDArray[np.uint8]:
    """A mask `(H, W)` of classes 0 (none) to 20, and `IGNORED`."""
    classes = len(split_table("pascal5i")["classes"])
    wrong = (mask > classes) & (mask != IGNORED)
    if wrong.any():
        raise ValueError(
            f"{archive}: {name!r} must hold classes 0 to {classes} and {IGNORED}, it holds {mask[wrong][0]}; get the "
            "archive again."
        )
    return mask


class _Masks:
    """The masks of all images at their final size, compressed: together they take some 50 MB.

    Attributes:
        classes: image → which classes it shows large enough.
        shapes: image → height and width of its mask as it was.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.classes: dict[str, frozenset[int]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._packed: dict[str, bytes] = {}

    def add(self, image: str, mask: npt.NDArray[np.uint8]) -> None:
        """Take a mask `(H, W)` of class numbers."""
        rows, columns = (nearest_positions(side, self.size) for side in mask.shape)
        small = np.ascontiguousarray(mask[np.ix_(rows, columns)])
        pixels = np.bincount(mask.reshape(-1), minlength=256)
        large = np.flatnonzero(pixels[:IGNORED] >= SMALLEST_OBJECT)
        self.classes[image] = frozenset(large.tolist()) & frozenset(np.unique(small).tolist()) - {0}
        self.shapes[image] = mask.shape
        self._packed[image] = zlib.compress(small.data, 1)

    def mask(self, image: str, number: int) -> npt.NDArray[np.uint8]:
        """`(size, size)`: 1 on the class, 0 elsewhere, `IGNORED` where nothing is said."""
        mask = np.frombuffer(zlib.decompress(self._packed[image]), np.uint8).reshape(self.size, self.size)
        return np.where(mask == IGNORED, np.uint8(IGNORED), (mask == number).astype(np.uint8))


def _examples(
    files: _Files, masks: _Masks, classes: Mapping[str, Sequence[str]], progress: bool
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]]:
    """Rows and examples `(n, size, size, 4)` of one image after another, as the archive has them."""
    from PIL.Image import Resampling

    numbers = {label: number for number, label in enumerate(split_table("pascal5i")["classes"], start=1)}
    rows: dict[str, list[tuple[int, int]]] = {}
    pairs = ((name, image) for name, images in classes.items() for image in images)
    for row, (name, image) in enumerate(pairs):
        rows.setdefault(image, []).append((row, numbers[name.partition("/")[2]]))

    def shape(picture: Any) -> Any:
        if (picture.height, picture.width) != masks.shapes[image]:
            raise ValueError(f"its mask has {masks.shapes[image]} rows and columns, it has {picture.size[::-1]}")
        return picture.resize((masks.size, masks.size), Resampling.BILINEAR)

    for name, content in files.stream([f"JPEGImages/{image}.jpg" for image in rows], "pascal5i images", progress):
        image = Path(name).stem
        pixels = decode(content, name, files.owners[name][0].path, "JPEG", "RGB", shape)
        found = [np.dstack([pixels, masks.mask(image, number)]) for _, number in rows[image]]
        yield np.array([row for row, _ in rows[image]]), np.stack(found)


def fold_split(class_names: Sequence[str], fold: int) -> dict[str, tuple[str, ...]]:
    """Five classes for meta-test, the other fifteen for meta-train, each of their own images."""
    del class_names  # the same whether built or not
    classes = split_table("pascal5i")["classes"]
    new = classes[5 * fold : 5 * fold + 5]
    return {
        "train": tuple(f"train/{name}" for name in classes if name not in new),
        "val": (),
        "test": tuple(f"test/{name}" for name in new),
    }


def _variant(size: int) -> Variant:
    return Variant(
        archives=(VOC, SBD),
        read=partial(read_pascal, size=size),
        splits={f"fold {fold}": partial(fold_split, fold=fold) for fold in range(FOLDS)},
        num_classes=2 * len(split_table("pascal5i")["classes"]),
        num_examples=(),
        example_shape=(size, size, 4),
        dtype=np.uint8,
    )


PASCAL_5I = Benchmark(
    name="pascal5i",
    title="Pascal-5i",
    description="photographs and masks, Shaban et al. 2017",
    terms="unknown",
    licence="none stated; the photographs are Flickr's, under its terms",
    variants={str(size): _variant(size) for size in (321, 400)},
    downloads="pascal5i",
    ways=1,
)


class Pascal5i(StoredMetaDataset, SegmentationMetaDataset):
    """1-way segmentation of the classes of Pascal VOC, 321×321×3 or 400×400×3: 15 classes to train, 5 new ones to test.

    Inputs are images, targets masks: 1 on objects of the task's class, 0 elsewhere, 255 (to be ignored) on outlines;
    see `SegmentationMetaDataset`. Fold i tests the classes 5i to 5i + 4 in alphabetical order, all five of them
    (Torchmeta drops the first), and there is no meta-val. Meta-train has the 10,582 images of VOC 2012 train and of SBD
    that are not in VOC 2012 val, meta-test the 1,449 of val. An image is an example of every class that it shows on at
    least 2,048 pixels; smaller objects do not count, as in Shaban et al.'s code. What shows a class of the other
    meta-split is background.

    Photographs and masks are squashed to a square of one size when the store is built: 321 as in CANet, or 400 as in
    HSNet. A published list of images per fold is not applied: lists in use differ from this rule by some images.

    References:
        Shaban, Bansal, Liu, Essa, Boots 2017, One-Shot Learning for Semantic Segmentation, BMVC,
        https://arxiv.org/abs/1709.03410

        Everingham et al. 2012, The Pascal Visual Object Classes Challenge; Hariharan et al. 2011, Semantic Contours
        from Inverse Detectors, ICCV (SBD); the images of both together: Chen et al. 2018,
        https://arxiv.org/abs/1802.02611

    Args:
        root: folder with the built benchmarks.
        num_classes_per_task: 1, also for `None`.
        meta_train: use fifteen classes; one of these three, or `meta_split`, must be given.
        meta_val: an error; there is no meta-val.
        meta_test: use the five classes of the fold.
        meta_split: `"train"` or `"test"`, instead of the flags.
        transform: image transforms of `metabridge.transforms`, which move masks with their images: one or a list.
        target_transform: `None`; the targets are masks.
        dataset_transform: a splitter.
        class_augmentations: augmentations, or meta-split → augmentations, of which each makes a new class of every
            class.
        download: fetch and build what is not built yet.
        fold: 0 to 3.
        variant: `"321"` or `"400"`, the side of images.

    Raises:
        FileNotFoundError: if the variant is not built and `download` is false.
        TypeError: for a `target_transform`, or a transform that says nothing of masks.
        ValueError: for an unknown fold, variant or meta-split, more than one way, or more examples than the smallest
            class has.
    """

    benchmark = PASCAL_5I

    def __init__(
        self,
        root: str | os.PathLike[str],
        num_classes_per_task: int | None = None,
        *,
        fold: int = 0,
        variant: str | None = None,
        **arguments: Unpack[Arguments],
    ) -> None:
        require(is_count(fold, 0) and fold < FOLDS, "fold", "0, 1, 2 or 3", fold)
        self.split = f"fold {fold}"
        self.variant = variant
        super().__init__(root, 1 if num_classes_per_task is None else num_classes_per_task, **arguments)
