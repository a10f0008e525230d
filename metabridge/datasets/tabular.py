"""Benchmarks of feature vectors: Letter, One Hundred Plants (margin, shape, texture) and Bach's chorales.

No checksum of their official files is known, so nothing is downloaded: each is built from a file of yours, and what
that file holds is checked.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np
import numpy.typing as npt

from metabridge.checks import check_integer
from metabridge.datasets.benchmarks import (
    Arguments,
    Benchmark,
    Content,
    StoredMetaDataset,
    Variant,
    split_table,
    table_split,
)
from metabridge.episodes.metadatasets import META_SPLITS
from metabridge.sources import HDF5Source
from metabridge.sources.hdf5 import HDF5Selection
from metabridge.sources.tables import group_labels
from metabridge.storage.kinds import check_file
from metabridge.transforms import ImageTransform, Normalize, expand_transforms

__all__ = [
    "BACH",
    "LETTER",
    "PLANTS_MARGIN",
    "PLANTS_SHAPE",
    "PLANTS_TEXTURE",
    "Bach",
    "Letter",
    "PlantsMargin",
    "PlantsShape",
    "PlantsTexture",
    "read_bach",
    "read_letter",
    "read_plants",
]

LETTER_ROWS = (11_636, 3_756, 4_608)
"""Rows of the meta-train, meta-val and meta-test classes."""
BACH_ROWS = (2_987, 1_211, 1_467)
_MOST_BYTES = 64 << 20
_PITCHES = 12
_METRES = 5


@contextmanager
def read_letter(
    paths: Sequence[Path],
    progress: bool,
    rows: tuple[int, int, int] = LETTER_ROWS,
    sizes: tuple[int, int] = (734, 813),
) -> Iterator[Content]:
    """`letter-recognition.data`: a capital letter, then 16 integers from 0 to 15."""
    del progress  # it takes a fraction of a second
    path = paths[0]
    table = _split_lines(path, _lines(path), 17)
    _check_rows(path, table, (sum(rows),))
    features = _numbers(path, [row[1:] for row in table])
    if (features != np.round(features)).any() or features.min() < 0 or features.max() > 15:
        raise ValueError(f"{path} must hold integers from 0 to 15 besides the letter; pass letter-recognition.data.")
    content = _content(path, [row[0] for row in table], features, "the 16 integers as published, not scaled", sizes)
    _check_split(path, content, "letter", rows)
    yield content


@contextmanager
def read_plants(
    paths: Sequence[Path],
    progress: bool,
    rows: tuple[int, ...],
    largest: tuple[float, float],
    sizes: tuple[int, int] = (16, 16),
) -> Iterator[Content]:
    """64 numbers and the number of a species: OpenML's CSV or ARFF, or UCI's text with a number in place of the name.

    The label is in the column called class, or in the first one if the file has no header. The largest value of all
    must lie within `largest`, which tells margin, shape and texture from one another.
    """
    del progress
    path = paths[0]
    lines, header = _without_header(_lines(path))
    table = _split_lines(path, lines, 65)
    label = 0
    if header:
        names = [name.strip("\"' ").lower() for name in header]
        if len(names) != 65 or names.count("class") != 1:
            raise ValueError(f"{path} must have 64 numbers and one column called class, got {len(names)} columns.")
        label = names.index("class")
    _check_rows(path, table, rows)
    labels = [row[label].strip("\"' ") for row in table]
    named = [name for name in labels if not name.isdigit()]
    if named:
        raise ValueError(
            f"{path} must label its rows with the numbers 1 to 100 by which OpenML and the class split call the "
            f"species, got {named[0]!r}. Which number a species has is not recorded anywhere known, so names cannot "
            "be translated: pass OpenML's CSV or ARFF file."
        )
    features = _numbers(path, [row[:label] + row[label + 1 :] for row in table])
    if features.min() < 0 or not largest[0] <= features.max() <= largest[1]:
        raise ValueError(
            f"{path} must hold numbers from 0 to a largest one between {largest[0]} and {largest[1]}, got "
            f"{features.min():.4g} to {features.max():.4g}; is it another of the three plant files?"
        )
    yield _content(path, labels, features, "the 64 numbers as published, not scaled", sizes)


@contextmanager
def read_bach(
    paths: Sequence[Path],
    progress: bool,
    rows: tuple[int, int, int] = BACH_ROWS,
    spellings: int = 16,
    sizes: tuple[int, int] = (1, 503),
) -> Iterator[Content]:
    """`jsbach_chorals_harmony.data`: chorale, event, twelve YES/NO, bass note, metre, chord.

    Chorale and event are left out. The chord keeps its leading blank.
    """
    del progress
    path = paths[0]
    table = _split_lines(path, _lines(path), 17)
    _check_rows(path, table, (sum(rows),))
    flags = np.array([[flag.strip() for flag in row[2 : 2 + _PITCHES]] for row in table])
    if not np.isin(flags, ("YES", "NO")).all():
        raise ValueError(f"{path} must hold YES or NO in columns 3 to 14; pass jsbach_chorals_harmony.data.")
    notes, bass = np.unique([row[14].strip() for row in table], return_inverse=True)
    if len(notes) != spellings:
        raise ValueError(f"{path} must spell the bass note in {spellings} ways, got {len(notes)}: {notes.tolist()}.")
    metre = _numbers(path, [row[15:16] for row in table])
    if not np.isin(metre, np.arange(1, _METRES + 1)).all():
        raise ValueError(f"{path} must hold a metre from 1 to {_METRES} in column 16.")
    features = np.hstack([flags == "YES", np.eye(len(notes))[bass.ravel()], (metre - 1) / (_METRES - 1)])
    preparation = f"12 pitch classes from C on as 0 or 1; bass note one-hot over {notes.tolist()}; (metre - 1) / 4"
    content = _content(path, [row[16] for row in table], features, preparation, sizes)
    _check_split(path, content, "bach", rows)
    yield content


def _lines(path: Path) -> list[tuple[int, str]]:
    """Line numbers and lines that are not empty."""
    if path.is_dir():
        raise ValueError(f"{path} must be one file, it is a folder; pass the file in it.")
    if check_file(path).st_size > _MOST_BYTES:
        raise ValueError(f"{path} must be a text file of at most {_MOST_BYTES:,} bytes; pass the file itself.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} must be a text file; unpack it first if it is an archive.") from None
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def _without_header(lines: list[tuple[int, str]]) -> tuple[list[tuple[int, str]], list[str]]:
    """The rows, and the columns' names if there are any."""
    lines = [(number, line) for number, line in lines if not line.startswith("%")]
    if any(line.startswith("@") for _, line in lines):
        words = [line.split() for _, line in lines if line.lower().startswith("@attribute")]
        return [each for each in lines if not each[1].startswith("@")], [each[1] for each in words if len(each) > 1]
    if lines and "class" in lines[0][1].lower().replace('"', "").strip().split(","):
        return lines[1:], lines[0][1].split(",")
    return lines, []


def _split_lines(path: Path, lines: list[tuple[int, str]], columns: int) -> list[list[str]]:
    table = [line.rstrip("\r\n").split(",") for _, line in lines]
    for (number, _), row in zip(lines, table, strict=True):
        if len(row) != columns:
            raise ValueError(
                f"{path} must hold {columns} columns with commas between them, line {number} has {len(row)}; "
                "pass the official file."
            )
    return table


def _check_rows(path: Path, table: Sequence[Sequence[str]], rows: tuple[int, ...]) -> None:
    if len(table) not in rows:
        raise ValueError(f"{path} must hold {' or '.join(f'{count:,}' for count in rows)} rows, got {len(table):,}.")


def _check_split(path: Path, content: Content, table: str, rows: tuple[int, int, int]) -> None:
    """The rows of each meta-split, a fact of the official file that other numbers in its form would hardly share."""
    sizes = dict(zip(content.class_names, content.class_sizes, strict=True))
    split = split_table(table)
    if set(sizes) != {name for meta_split in META_SPLITS for name in split[meta_split]}:
        return  # `build` says which class is missing
    found = tuple(sum(sizes[name] for name in split[meta_split]) for meta_split in META_SPLITS)
    if found != rows:
        raise ValueError(
            f"{path} must hold {'/'.join(map(str, rows))} rows of meta-train, meta-val and meta-test classes, got "
            f"{'/'.join(map(str, found))}; pass the official file."
        )


def _numbers(path: Path, rows: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
    try:
        numbers = np.array(rows, dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{path} must hold numbers ({error}); pass the official file.") from None
    if not np.isfinite(numbers).all():
        raise ValueError(f"{path} must hold finite numbers; pass the official file.")
    return numbers


def _content(
    path: Path, labels: Sequence[str], features: npt.NDArray[np.float64], preparation: str, sizes: tuple[int, int]
) -> Content:
    """Classes in the order of their names; within one the file's order."""
    names, counts, order = group_labels(labels)
    wrong = [(name, n) for name, n in zip(names, counts.tolist(), strict=True) if not sizes[0] <= n <= sizes[1]]
    if wrong:
        raise ValueError(
            f"{path} must hold {sizes[0]} to {sizes[1]} rows of every class, got {wrong[0][1]} of {wrong[0][0]!r}."
        )
    grouped = features if order is None else features[order]
    return Content(
        class_names=names,
        class_sizes=counts.tolist(),
        example_shape=features.shape[1:],
        dtype=np.float32,
        blocks=[grouped.astype(np.float32)],
        preparation=preparation,
    )


def _variant(
    read: Callable[[Sequence[Path], bool], AbstractContextManager[Content]],
    table: str,
    num_classes: int,
    num_examples: tuple[int, ...],
    features: int,
    by_hand: str,
) -> Variant:
    return Variant(
        archives=(),
        read=read,
        splits={"official": partial(table_split, table)},
        num_classes=num_classes,
        num_examples=num_examples,
        example_shape=(features,),
        dtype=np.float32,
        by_hand=by_hand,
    )


LETTER = Benchmark(
    name="letter",
    title="Letter",
    description="printed letters, Frey & Slate 1991",
    terms="CC BY 4.0?",
    licence="CC BY 4.0 by UCI's general terms, not verified for this set",
    variants={
        "full": _variant(
            read_letter,
            "letter",
            26,
            LETTER_ROWS,
            16,
            "Get letter-recognition.data of the UCI Machine Learning Repository, data set 59 (Letter Recognition).",
        )
    },
    downloads="letter",
)


def _plants(
    name: str, openml: int, official: str, rows: tuple[int, ...], largest: tuple[float, float], sizes: tuple[int, int]
) -> Benchmark:
    read = partial(read_plants, rows=rows, largest=largest, sizes=sizes)
    by_hand = (
        f"Get OpenML's data set {openml} as CSV or ARFF. ({official} of UCI data set 241 is the same with names of "
        "species in place of the split's numbers; which number is which species is not known.)"
    )
    return Benchmark(
        name=f"plants_{name}",
        title=f"One Hundred Plants ({name})",
        description=f"leaf {name}s, Mallah et al. 2013",
        terms="unknown",
        licence="unknown",
        variants={"full": _variant(read, "one_hundred_plants", 100, (1_120, 240, 240), 64, by_hand)},
        downloads="one_hundred_plants",
    )


PLANTS_MARGIN = _plants("margin", 1491, "data_Mar_64.txt", (1600,), (0.3, 0.5), (16, 16))
PLANTS_SHAPE = _plants("shape", 1492, "data_Sha_64.txt", (1600,), (0.001, 0.01), (16, 16))
PLANTS_TEXTURE = _plants("texture", 1493, "data_Tex_64.txt", (1599, 1600), (0.6, 1.0), (15, 16))

BACH = Benchmark(
    name="bach",
    title="Bach",
    description="chords, Radicioni & Esposito 2010",
    terms="unknown",
    licence="unknown",
    variants={
        "full": _variant(
            read_bach,
            "bach",
            102,
            BACH_ROWS,
            29,
            "Get jsbach_chorals_harmony.data of the UCI Machine Learning Repository, data set 298 "
            "(https://doi.org/10.24432/C5B61F).",
        )
    },
    downloads="bach",
)


class Letter(StoredMetaDataset):
    """N-way tasks over the capital letters, vectors of 16 integers from 0 to 15, not scaled: 15/5/6 classes.

    734 to 813 examples of each. Built from a file of yours; there is no download.

    References:
        Frey, Slate 1991, Letter recognition using Holland-style adaptive classifiers, Machine Learning 6(2)
    """

    benchmark = LETTER


class PlantsMargin(StoredMetaDataset):
    """N-way tasks over plant species by the margins of their leaves, vectors of 64: 70/15/15 classes of 16.

    Margin, shape and texture share one class split. It names species by OpenML's numbers 1 to 100, and so must the
    file it is built from: UCI's files have names, and no table that translates them is known. There is no download.

    References:
        Mallah, Cope, Orwell 2013, Plant leaf classification using probabilistic integration of shape, texture and
        margin features

    Args:
        root: folder with the built benchmarks.
        num_classes_per_task: N.
        meta_train: use the meta-train classes; one of these three, or `meta_split`, must be given.
        meta_val: use the meta-val classes.
        meta_test: use the meta-test classes.
        meta_split: `"train"`, `"val"` or `"test"`, instead of the three flags.
        transform: `Elementwise` transforms such as `Normalize`: one or a list; after the scaling, if there is one.
        target_transform: `Categorical(N)` for permuted labels, `None` for a class's position in the task.
        dataset_transform: a splitter.
        class_augmentations: augmentations of which each makes a new class of every class.
        download: an error that says which file to get, unless the benchmark is built.
        process_features: scale every feature by its range over the meta-train classes to [0, 1] there; `PlantsShape`,
            whose numbers are some thousandths: to mean 0 and standard deviation 1 there. As Torchmeta does it.

    Raises:
        FileNotFoundError: if the benchmark is not built.
        TypeError: if `num_classes_per_task` is no integer.
        ValueError: for an unknown meta-split, fewer classes than ways, or more examples than the smallest class has.
    """

    benchmark = PLANTS_MARGIN

    def __init__(
        self,
        root: str | os.PathLike[str],
        num_classes_per_task: int | None = None,
        *,
        process_features: bool = False,
        **arguments: Unpack[Arguments],
    ) -> None:
        self.process_features = process_features
        super().__init__(root, num_classes_per_task, **arguments)

    def _transform(
        self, store: HDF5Source, transform: ImageTransform | Sequence[ImageTransform] | None
    ) -> ImageTransform | Sequence[ImageTransform] | None:
        if not self.process_features:
            return transform
        names = set(split_table("one_hundred_plants")["train"])
        features = np.concatenate(
            [
                store.gather(np.full(size, i), np.arange(size)).astype(np.float64)
                for i, (name, size) in enumerate(zip(store.class_names, store.class_sizes.tolist(), strict=True))
                if name in names
            ]
        )
        return [self._scaling(features), *expand_transforms(transform)]

    @staticmethod
    def _scaling(features: npt.NDArray[np.float64]) -> Normalize:
        """The transform that scales, from the features `(n, 64)` of the meta-train classes."""
        low, width = features.min(axis=0), np.ptp(features, axis=0)
        return Normalize(low, np.where(width > 0, width, 1.0))


class PlantsShape(PlantsMargin):
    """N-way tasks over plant species by the shapes of their leaves; in all else as `PlantsMargin`."""

    benchmark = PLANTS_SHAPE

    @staticmethod
    def _scaling(features: npt.NDArray[np.float64]) -> Normalize:
        count = len(features)
        mean = np.array([math.fsum(column) for column in features.T]) / count  # exact sums: alike on every machine
        variance = np.array([math.fsum(column) for column in np.square(features - mean).T]) / count
        return Normalize(mean, np.sqrt(variance) + 1e-10)


class PlantsTexture(PlantsMargin):
    """N-way tasks over plant species by the textures of their leaves; in all else as `PlantsMargin`.

    Copies with 1,599 rows have one species with 15 leaves; others have 1,600 rows. Both are accepted, and have
    different fingerprints.
    """

    benchmark = PLANTS_TEXTURE


class Bach(StoredMetaDataset):
    """N-way tasks over the chords of Bach's chorales, vectors of 29 numbers in [0, 1]: 61/20/21 classes.

    Twelve pitch classes from C on, 0 or 1; the bass note, one of 16 spellings, one-hot; and (metre - 1) / 4. Torchmeta
    makes two columns of every pitch class, and scales the metre by the range of all rows instead of the fixed one.
    Chords keep the leading blank of the data file: `" C_M"`. Their sizes go from 1 to 503 and few are large: with at
    least 20 examples there are 19/9/6. There is no download.

    Args:
        root: folder with the built benchmarks.
        num_classes_per_task: N.
        meta_train: use the meta-train classes; one of these three, or `meta_split`, must be given.
        meta_val: use the meta-val classes.
        meta_test: use the meta-test classes.
        meta_split: `"train"`, `"val"` or `"test"`, instead of the three flags.
        transform: `Elementwise` transforms such as `Normalize`: one or a list.
        target_transform: `Categorical(N)` for permuted labels, `None` for a class's position in the task.
        dataset_transform: a splitter.
        class_augmentations: augmentations of which each makes a new class of every class.
        download: an error that says which file to get, unless the benchmark is built.
        min_num_samples_per_class: chords with fewer examples are left out.

    Raises:
        FileNotFoundError: if the benchmark is not built.
        TypeError: if `num_classes_per_task` or `min_num_samples_per_class` is no integer.
        ValueError: for an unknown meta-split, fewer classes than ways, or more examples than the smallest class has.

    References:
        Radicioni, Esposito 2010, BREVE: An HMPerceptron-based chord recognition system
    """

    benchmark = BACH

    def __init__(
        self,
        root: str | os.PathLike[str],
        num_classes_per_task: int | None = None,
        *,
        min_num_samples_per_class: int = 1,
        **arguments: Unpack[Arguments],
    ) -> None:
        self.min_num_samples_per_class = check_integer(min_num_samples_per_class, "min_num_samples_per_class")
        super().__init__(root, num_classes_per_task, **arguments)

    def _kept(self, source: HDF5Selection) -> HDF5Selection:
        large = np.flatnonzero(source.class_sizes >= self.min_num_samples_per_class)
        if not len(large):
            raise ValueError(
                f"`min_num_samples_per_class` must leave a chord, the largest of this meta-split has "
                f"{source.class_sizes.max()} examples, got {self.min_num_samples_per_class}."
            )
        return source.select(large)
