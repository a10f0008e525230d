"""Mini-ImageNet: 100 classes of ImageNet, 600 photographs each, 84×84."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.archives.fetch import Archive
from metabridge.archives.members import open_members
from metabridge.archives.pickles import load_pickle
from metabridge.datasets.benchmarks import Benchmark, Content, StoredMetaDataset, Variant, split_table, table_split
from metabridge.datasets.ilsvrc import is_ilsvrc_folder

__all__ = ["MINI_IMAGENET", "MiniImagenet", "read_mini_imagenet"]

ARCHIVE = Archive(
    "mini-imagenet.tar.gz",
    ("gdrive:16V_ZlkW4SsnNDtnGmaBRq2OoPmUOc5mY", "gdrive:1LLUjwSUpWGSWizl3JZxd08V30_dIaRBx"),
    md5="b38f1eb4251fb9459ecc8e7febf9b2eb",
    about=1_100_000_000,
)
EXAMPLES_PER_CLASS = 600
SHAPE = (84, 84, 3)
_MEMBER_BYTES = 2 << 30
_FILES = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}
"""Meta-split → its names in `mini-imagenet-cache-<name>.pkl`; copies differ in that of meta-val."""


@contextmanager
def read_mini_imagenet(
    paths: Sequence[Path], progress: bool, examples_per_class: int = EXAMPLES_PER_CLASS
) -> Iterator[Content]:
    """The three pickles of Ren et al. 2018, one in memory at a time; classes by meta-split, sorted in each."""
    from tqdm import tqdm

    path = paths[0]
    if is_ilsvrc_folder(path) and not any(path.glob("mini-imagenet-cache-*.pkl")):
        raise ValueError(
            f"{path} must hold the pickles of Mini-ImageNet, got ILSVRC-2012's class folders: which 600 photographs of "
            "a class belong to it is published only by numbers that are not names of ILSVRC's files; pass the official "
            f"{ARCHIVE.name}, or a folder with its three files."
        )
    with open_members(path, max_member_bytes=_MEMBER_BYTES) as members:
        files = {split: _member(path, members.names, split) for split in _FILES}
        table = split_table("mini_imagenet")

        def blocks() -> Iterator[npt.NDArray[np.uint8]]:
            for split in tqdm(_FILES, "mini_imagenet", unit="file", disable=not progress, file=sys.stderr):
                with members.open(files[split]) as file:
                    content = load_pickle(file, f"{path}: {files[split]}")
                yield from _classes(path, files[split], content, table[split], examples_per_class)
                del content  # or it would be in memory still while the next one is read

        names = [name for split in _FILES for name in table[split]]
        yield Content(
            class_names=names,
            class_sizes=[examples_per_class] * len(names),
            example_shape=SHAPE,
            dtype=np.uint8,
            blocks=blocks(),
            preparation="84x84 RGB as published: squashed by OpenCV, the sides' proportion is lost",
        )


def _member(path: Path, names: Sequence[str], split: str) -> str:
    endings = [f"mini-imagenet-cache-{word}.pkl" for word in _FILES[split]]
    found = [name for name in names if name.rpartition("/")[2] in endings]
    if len(found) != 1:
        raise ValueError(
            f"{path} must hold {' or '.join(endings)} once, got {len(found)}; pass the official {ARCHIVE.name}, or a "
            "folder with its three files."
        )
    return found[0]


def _classes(
    path: Path, name: str, content: Any, wanted: Sequence[str], examples: int
) -> Iterator[npt.NDArray[np.uint8]]:
    try:
        images, rows = np.asarray(content["image_data"]), content["class_dict"]
        indices = {label: np.asarray(rows[label], dtype=np.int64) for label in wanted}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {name} is not a file of Mini-ImageNet ({error!r}); get the archive again.") from None
    if images.dtype != np.uint8 or images.shape[1:] != SHAPE or set(rows) != set(wanted):
        raise ValueError(f"{path}: {name} must hold {len(wanted)} classes of 84x84 RGB images; get the archive again.")
    for label in wanted:
        if len(indices[label]) != examples or indices[label].min() < 0 or indices[label].max() >= len(images):
            raise ValueError(f"{path}: {name} must hold {examples} images of {label!r}, got {len(indices[label])}.")
        yield images[indices[label]]


MINI_IMAGENET = Benchmark(
    name="miniimagenet",
    title="Mini-ImageNet",
    description="photographs, Ravi & Larochelle 2017",
    terms="research only",
    licence="ImageNet's terms of access: non-commercial research",
    variants={
        "full": Variant(
            archives=(ARCHIVE,),
            read=read_mini_imagenet,
            splits={"official": partial(table_split, "mini_imagenet")},
            num_classes=100,
            num_examples=(38_400, 9_600, 12_000),
            example_shape=SHAPE,
            dtype=np.uint8,
        )
    },
    downloads="miniimagenet",
)


class MiniImagenet(StoredMetaDataset):
    """N-way tasks over the classes of Mini-ImageNet, 84×84×3: 64/16/20 classes of 600 photographs.

    There is no build from one's own copy of ILSVRC-2012: the published lists number the photographs of a class, and the
    rule that turns a number into one of ILSVRC's files is nowhere stated with them.

    58 of the 100 classes are also in Tiered-ImageNet, five meta-test classes among them in its meta-train: a network
    trained there must not be tested here.

    References:
        Vinyals et al. 2016, Matching Networks for One Shot Learning, https://arxiv.org/abs/1606.04080

        Ravi, Larochelle 2017, Optimization as a Model for Few-Shot Learning, ICLR; the split. (The text of the MAML
        paper says 12 meta-val and 24 meta-test classes; the files have 16 and 20.)
    """

    benchmark = MINI_IMAGENET
