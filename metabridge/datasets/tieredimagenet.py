"""Tiered-ImageNet: 608 classes of ImageNet in 34 categories, 84×84, meta-splits of whole categories."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from metabridge.archives.fetch import Archive
from metabridge.archives.members import Members, open_members
from metabridge.archives.pickles import load_pickle, stream_pickled_list
from metabridge.datasets.benchmarks import (
    Arguments,
    Benchmark,
    Content,
    StoredMetaDataset,
    Variant,
    split_table,
    table_split,
)
from metabridge.datasets.ilsvrc import CLASS_SIZES, class_folders, is_wnid, read_ilsvrc
from metabridge.datasets.images import decode, exactly
from metabridge.episodes.metadatasets import META_SPLITS

__all__ = ["TIERED_IMAGENET", "TieredImagenet", "read_tiered_ilsvrc", "read_tiered_imagenet"]

ARCHIVE = Archive(
    "tiered-imagenet.tar",
    ("gdrive:1g1aIDy2Ar_MViF2gDXFYDBTR-HYecV07",),
    md5="e07e811b9f29362d159a9edd0d838c62",
    about=12_900_000_000,
)
EXAMPLES = {"train": 448_695, "val": 124_261, "test": 206_209}
"""Meta-split → its photographs."""
SHAPE = (84, 84, 3)
_ARCHIVE_BYTES = 32 << 30  # 12.9 GB are official, nearly all of them in one member
_TEXT_BYTES = 1 << 20
_LABELS = "_labels.pkl"
_BROKEN_LABELS = (KeyError, TypeError, ValueError, IndexError, OverflowError)


def read_tiered_ilsvrc(
    paths: Sequence[Path],
    progress: bool,
    examples: Mapping[str, int] = EXAMPLES,
    class_sizes: tuple[int, int] = CLASS_SIZES,
) -> AbstractContextManager[Content]:
    """The photographs of ILSVRC-2012; classes by meta-split, by wnid in each.

    Args:
        paths: a folder with ILSVRC-2012's class folders.
        progress: show a bar on standard error.
        examples: meta-split → how many photographs there must be.
        class_sizes: the smallest and the largest number of photographs that a class may have.
    """
    (path,) = paths
    folder = class_folders(path)
    if folder is None:
        raise ValueError(
            f"{path} must be a folder with ILSVRC-2012's training photographs, one folder per wnid with its *.JPEG "
            "files; pass ILSVRC-2012's `train` folder. (For the published archive leave out `--variant ilsvrc`.)"
        )
    classes = table_split("tiered_imagenet")
    return read_ilsvrc(folder, "Tiered-ImageNet", classes, examples, SHAPE[0], progress, class_sizes=class_sizes)


@contextmanager
def read_tiered_imagenet(
    paths: Sequence[Path], progress: bool, examples: Mapping[str, int] = EXAMPLES
) -> Iterator[Content]:
    """The pickles of Ren et al. 2018, one photograph in memory at a time; classes by meta-split, by wnid in each.

    Examples of a class keep the files' order.

    Args:
        paths: the official archive, or a folder with its files.
        progress: show a bar on standard error.
        examples: meta-split → how many photographs there must be.
    """
    path = paths[0]
    if path.is_dir() and not _pickles_below(path):
        raise ValueError(
            f"{path} must hold the pickles of {ARCHIVE.name}, train{_LABELS} and so on; pass the archive, or the "
            "folder with its files. ILSVRC-2012's own photographs make another store: for them add `--variant ilsvrc` "
            '(`variant="ilsvrc"` in Python).'
        )
    with open_members(path, max_member_bytes=_ARCHIVE_BYTES, max_total_bytes=_ARCHIVE_BYTES) as members:
        files = {
            split: tuple(_member(members, f"{split}_{what}.pkl") for what in ("images_png", "labels"))
            for split in META_SPLITS
        }
        wnids = _wnids(members)
        names: list[str] = []
        sizes: list[int] = []
        rows = {}
        for split in META_SPLITS:
            labels = _labels(members, files[split][1], split, wnids, examples[split])
            present = sorted(set(labels))
            positions = {wnid: i for i, wnid in enumerate(present)}
            ids = np.array([positions[wnid] for wnid in labels])
            counts = np.bincount(ids, minlength=len(present))
            rows[split] = _ranks(ids) + sum(sizes)
            names += present
            sizes += counts.tolist()

        yield Content(
            class_names=names,
            class_sizes=sizes,
            example_shape=SHAPE,
            dtype=np.uint8,
            blocks=_photographs(members, {split: files[split][0] for split in META_SPLITS}, rows, progress),
            preparation="84x84 RGB as published: squashed by OpenCV, the sides' proportion is lost",
        )


def _pickles_below(folder: Path) -> bool:
    """Whether the archive's files are anywhere below; class folders with a million photographs are not looked into."""
    for _, folders, files in os.walk(folder):
        if any(file.endswith(_LABELS) for file in files):
            return True
        folders[:] = [name for name in folders if not is_wnid(name)]
    return False


def _member(members: Members, ending: str) -> str:
    found = [name for name in members.names if name.rpartition("/")[2] == ending]
    if len(found) != 1:
        raise ValueError(
            f"{members.path} must hold {ending} once, got {len(found)}; pass the official {ARCHIVE.name}, or a folder "
            "with its files."
        )
    return found[0]


def _wnids(members: Members) -> dict[str, list[str]]:
    """Readable name → the wnids that bear it."""
    lines = []
    for ending in ("class_names.txt", "synsets.txt"):
        name = _member(members, ending)
        with members.open(name) as file:
            content = file.read(_TEXT_BYTES)
        # Latin-1, as load_pickle reads Python 2's strings
        lines.append([line.strip() for line in content.decode("latin1").strip().split("\n")])
    if len(lines[0]) != len(lines[1]):
        raise ValueError(
            f"{members.path} must name each wnid once, class_names.txt has {len(lines[0])} lines and synsets.txt "
            f"{len(lines[1])}; get the archive again."
        )
    wnids: dict[str, list[str]] = {}
    for name, wnid in zip(*lines, strict=True):
        wnids.setdefault(name, []).append(wnid)
    return wnids


def _labels(members: Members, name: str, split: str, wnids: Mapping[str, Sequence[str]], examples: int) -> list[str]:
    """The wnid of every photograph of a meta-split."""
    where = f"{members.path}: {name}"
    with members.open(name) as file:
        content = load_pickle(file, where)
    try:
        readable = [str(each).strip() for each in content["label_specific_str"]]
        numbers = np.asarray(content["label_specific"])
        if numbers.shape != (examples,) or numbers.dtype.kind not in "iu":
            raise ValueError(f"it must hold {examples:,} labels, got {numbers.shape} of {numbers.dtype}")
        if sorted(set(numbers.tolist())) != list(range(len(readable))):
            raise ValueError("every label must have a name and every name a photograph")
        classes = [_wnid(each, wnids, split) for each in readable]
        if len(set(classes)) != len(classes):
            raise ValueError("two labels must not have the same name")
    except _BROKEN_LABELS as error:
        reason = str(error) if type(error) is ValueError else repr(error)
        raise ValueError(f"{where} is not a file of Tiered-ImageNet ({reason}); get the archive again.") from None
    return [classes[number] for number in numbers]


def _wnid(readable: str, wnids: Mapping[str, Sequence[str]], split: str) -> str:
    """The wnid that a name stands for. ImageNet has two classes `crane`, the split only the bird."""
    wanted = set(split_table("tiered_imagenet")[split])
    found = [wnid for wnid in wnids.get(readable, ()) if wnid in wanted]
    if len(found) != 1:
        raise ValueError(f"the name {readable!r} must be that of one {split} class, it is that of {len(found)}")
    return found[0]


def _ranks(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each example is when they are put in class order."""
    ranks = np.empty(len(ids), np.int64)
    ranks[np.argsort(ids, kind="stable")] = np.arange(len(ids))
    return ranks


def _photographs(
    members: Members, files: Mapping[str, str], rows: Mapping[str, npt.NDArray[np.int64]], progress: bool
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """Row and pixels of each photograph, in the order of the files."""
    from tqdm import tqdm

    total = sum(map(len, rows.values()))
    with tqdm(desc="tiered_imagenet", total=total, unit="image", disable=not progress, file=sys.stderr) as bar:
        for split, name in files.items():
            where, count = f"{members.path}: {name}", 0
            for item in stream_pickled_list(partial(members.open, name), where, encoding="bytes"):
                if count == len(rows[split]):
                    raise ValueError(f"{where} must hold {count:,} images, it holds more; get the archive again.")
                pixels = decode(_encoded(item, where), f"{name}[{count}]", members.path, "PNG", "RGB", exactly(84, 84))
                yield int(rows[split][count]), pixels
                count += 1
                bar.update()
            if count != len(rows[split]):
                raise ValueError(
                    f"{where} must hold {len(rows[split]):,} images, it holds {count:,}; get the archive again."
                )


def _encoded(item: Any, where: str) -> bytes:
    if isinstance(item, np.ndarray) and item.dtype == np.uint8:
        return item.tobytes()
    raise ValueError(f"{where} must hold images as arrays of bytes, got {type(item).__name__}; get the archive again.")


def _variant(
    archives: tuple[Archive, ...],
    read: Callable[[Sequence[Path], bool], AbstractContextManager[Content]],
    by_hand: str = "",
) -> Variant:
    return Variant(
        archives=archives,
        read=read,
        splits={"official": partial(table_split, "tiered_imagenet")},
        num_classes=608,
        num_examples=tuple(EXAMPLES.values()),
        example_shape=SHAPE,
        dtype=np.uint8,
        by_hand=by_hand,
    )


TIERED_IMAGENET = Benchmark(
    name="tieredimagenet",
    title="Tiered-ImageNet",
    description="photographs, Ren et al. 2018",
    terms="research only",
    licence="ImageNet's terms of access: non-commercial research",
    variants={
        "full": _variant((ARCHIVE,), read_tiered_imagenet),
        "ilsvrc": _variant(
            (),
            read_tiered_ilsvrc,
            "Get ILSVRC-2012's training photographs from https://image-net.org: a folder `train` with one folder per "
            "class.",
        ),
    },
    downloads="tieredimagenet",
)


class TieredImagenet(StoredMetaDataset):
    """N-way tasks over the classes of Tiered-ImageNet, 84×84×3: 351/97/160 classes, 779,165 photographs.

    Meta-splits are made of whole categories, 20/6/8 of them, so that meta-test classes differ more from meta-train
    ones than elsewhere. Classes are named by wnid and differ in size.

    The archive takes 12.9 GB and the store 16.5 GB of disk. Building reads the archive twice and keeps about a
    thousand photographs in memory; the store is memory-mapped, so that tasks need little memory too.

    The variant `"ilsvrc"` is made of one's own copy of ILSVRC-2012, whose photographs of these classes it is:
    `metabridge build tieredimagenet --variant ilsvrc --from ILSVRC2012/train`. They are squashed to 84×84 by Pillow's
    bicubic filter, which smooths; those of the archive were squashed by OpenCV's, which does not. Classes, and how many
    photographs each meta-split has, are the same; that each class has as many as in the archive cannot be checked, as
    the numbers are not published. Pixels and the order within a class differ, and so does the fingerprint: do not
    compare accuracies across the two.

    58 of the classes are also in Mini-ImageNet, five of its meta-test classes among the meta-train classes here: a
    network trained here must not be tested there.

    References:
        Ren et al. 2018, Meta-Learning for Semi-Supervised Few-Shot Classification, https://arxiv.org/abs/1803.00676

    Args:
        root: folder with the built benchmarks.
        num_classes_per_task: N.
        meta_train: use the meta-train classes; one of these three, or `meta_split`, must be given.
        meta_val: use the meta-val classes.
        meta_test: use the meta-test classes.
        meta_split: `"train"`, `"val"` or `"test"`, instead of the three flags.
        transform: image transforms of `metabridge.transforms`, drawn from the episode's stream: one or a list.
        target_transform: `Categorical(N)` for permuted labels, `None` for a class's position in the task.
        dataset_transform: a splitter.
        class_augmentations: augmentations, or meta-split → augmentations, of which each makes a new class of every
            class.
        download: fetch and build what is not built yet; of `"ilsvrc"` an error that says what to get.
        variant: `"full"`, from the published archive, or `"ilsvrc"`.

    Raises:
        FileNotFoundError: if the variant is not built and `download` is false.
        TypeError: if `num_classes_per_task` is no integer.
        ValueError: for an unknown variant or meta-split, fewer classes than ways, or more examples than the smallest
            class has.
    """

    benchmark = TIERED_IMAGENET

    def __init__(
        self,
        root: str | os.PathLike[str],
        num_classes_per_task: int | None = None,
        *,
        variant: str = "full",
        **arguments: Unpack[Arguments],
    ) -> None:
        self.variant = variant
        super().__init__(root, num_classes_per_task, **arguments)
