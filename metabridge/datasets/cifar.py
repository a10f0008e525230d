"""CIFAR-FS and FC100: the classes of CIFAR-100 (Krizhevsky 2009) under two splits."""

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
from metabridge.datasets.benchmarks import (
    Benchmark,
    Content,
    StoredMetaDataset,
    Variant,
    blocks_of_classes,
    table_split,
)

__all__ = ["CIFARFS", "CIFAR_FS", "FC100", "FC_100", "read_cifar100"]

ARCHIVE = Archive(
    "cifar-100-python.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
    sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    size=169_001_437,
)
EXAMPLES_PER_CLASS = 600
_FOLDER = "cifar-100-python/"
_MEMBER_BYTES = 256 << 20


@contextmanager
def read_cifar100(
    paths: Sequence[Path], progress: bool, examples_per_class: int = EXAMPLES_PER_CLASS
) -> Iterator[Content]:
    """CIFAR-100 with its training and test images together, as every few-shot benchmark takes it.

    Classes in alphabetical order; within one the training images, then the test images, each in the archive's order.
    """
    path = paths[0]
    with open_members(path, max_member_bytes=_MEMBER_BYTES) as members:
        top = _FOLDER if any(name.startswith(_FOLDER) for name in members.names) else ""
        wanted = [f"{top}{name}" for name in ("meta", "train", "test")]
        missing = [name for name in wanted if name not in members.names]
        if missing:
            raise ValueError(f"{path} must hold {missing[0]}; pass the official {ARCHIVE.name} or its unpacked folder.")
        if progress:
            print(f"reading {path}", file=sys.stderr)
        files = {name: load_pickle(content, f"{path}: {name}") for name, content in members.stream(wanted)}
    meta, *sets = (files[name] for name in wanted)
    try:
        names = [str(name) for name in meta["fine_label_names"]]
        labels = np.concatenate([np.asarray(each["fine_labels"], dtype=np.int64) for each in sets])
        images = np.concatenate([np.asarray(each["data"]) for each in sets])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not CIFAR-100 ({error!r}); get the archive again.") from None
    _check(path, names, labels, images, examples_per_class)
    pixels = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)

    def load(name: str) -> npt.NDArray[np.uint8]:
        return pixels[labels == names.index(name)]

    yield Content(
        class_names=sorted(names),
        class_sizes=[examples_per_class] * len(names),
        example_shape=(32, 32, 3),
        dtype=np.uint8,
        blocks=blocks_of_classes("cifar-100", sorted(names), load, progress),
        preparation="32x32 RGB as published, training and test images joined",
    )


def _check(
    path: Path, names: Sequence[str], labels: npt.NDArray[np.int64], images: npt.NDArray[Any], examples: int
) -> None:
    if labels.ndim != 1 or labels.min(initial=0) < 0 or labels.max(initial=0) >= len(names):
        raise ValueError(f"{path} must hold labels from 0 to {len(names) - 1}; get the archive again.")
    counts = np.bincount(labels, minlength=len(names))
    if images.dtype != np.uint8 or images.shape != (len(labels), 3 * 32 * 32):
        raise ValueError(f"{path} must hold uint8 rows of 3072 pixels, got {images.dtype}{images.shape}.")
    if (counts != examples).any():
        raise ValueError(
            f"{path} must hold {examples} images of each of its {len(names)} classes, got {counts.tolist()}."
        )


_TERMS, _LICENCE = "unknown", "none stated by its authors"


def _variant(table: str, num_examples: tuple[int, ...]) -> Variant:
    return Variant(
        archives=(ARCHIVE,),
        read=read_cifar100,
        splits={"official": partial(table_split, table)},
        num_classes=100,
        num_examples=num_examples,
        example_shape=(32, 32, 3),
        dtype=np.uint8,
    )


CIFAR_FS = Benchmark(
    name="cifar_fs",
    title="CIFAR-FS",
    description="photographs, Bertinetto et al. 2019",
    terms=_TERMS,
    licence=_LICENCE,
    variants={"full": _variant("cifar_fs", (38_400, 9_600, 12_000))},
    downloads="cifar100",
)
FC_100 = Benchmark(
    name="fc100",
    title="FC100",
    description="photographs, Oreshkin et al. 2018",
    terms=_TERMS,
    licence=_LICENCE,
    variants={"full": _variant("fc100", (36_000, 12_000, 12_000))},
    downloads="cifar100",
)


class CIFARFS(StoredMetaDataset):
    """N-way tasks over the classes of CIFAR-FS, 32×32×3: 64/16/20 classes of 600 photographs.

    Built from the CIFAR-100 archive of its authors and the class lists alone.

    References:
        Bertinetto, Henriques, Torr, Vedaldi 2019, Meta-learning with differentiable closed-form solvers,
        https://arxiv.org/abs/1805.08136
    """

    benchmark = CIFAR_FS


class FC100(StoredMetaDataset):
    """N-way tasks over the classes of FC100, 32×32×3: 60/20/20 classes of 600 photographs.

    Whole superclasses of CIFAR-100 go to one meta-split: 12, 4 and 4 of them. (The paper's text says five for meta-val
    and meta-test; its appendix and code have four.)

    References:
        Oreshkin, Rodriguez, Lacoste 2018, TADAM: Task dependent adaptive metric for improved few-shot learning,
        https://arxiv.org/abs/1805.10123
    """

    benchmark = FC_100
