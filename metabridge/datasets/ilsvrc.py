"""A copy of ILSVRC-2012's training photographs: one folder of `*.JPEG` files per class, named by its wnid."""

import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from metabridge.datasets.benchmarks import Content
from metabridge.datasets.images import decode, decoder, squashed
from metabridge.episodes.metadatasets import META_SPLITS
from metabridge.storage.kinds import check_file

__all__ = ["CLASS_SIZES", "class_folders", "is_ilsvrc_folder", "is_wnid", "read_ilsvrc"]

PLACES = (".", "train", "CLS-LOC/train", "Data/CLS-LOC/train", "ILSVRC/Data/CLS-LOC/train")
"""Where the class folders may be, below the folder that a user names."""
CLASS_SIZES = (732, 1300)
"""Photographs of the smallest and of the largest class."""
_ENDING = ".JPEG"
_FORMS = ("JPEG", "PNG")  # n02105855_2933.JPEG is a PNG file
_AHEAD = 4
"""Photographs under way for each thread."""
_NAMED = 5
"""Classes that one message names."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def class_folders(path: Path) -> Path | None:
    """The folder that holds ILSVRC's class folders: `path` or one of `PLACES` below it; `None` if none does."""
    for place in PLACES:
        folder = path / place
        if folder.is_dir():
            with os.scandir(folder) as entries:
                if any(is_wnid(entry.name) and entry.is_dir() for entry in entries):
                    return folder
    return None


def is_wnid(name: str) -> bool:
    """Whether a folder's name is that of a class.

    >>> is_wnid("n01440764"), is_wnid("train")
    (True, False)
    """
    return re.fullmatch(r"n\d{8}", name) is not None


def is_ilsvrc_folder(path: Path) -> bool:
    """Whether ILSVRC's class folders are here, or below where it keeps them."""
    return class_folders(path) is not None


@contextmanager
def read_ilsvrc(
    folder: Path,
    title: str,
    classes: Mapping[str, Sequence[str]],
    examples: Mapping[str, int],
    size: int,
    progress: bool,
    workers: int | None = None,
    class_sizes: tuple[int, int] = CLASS_SIZES,
) -> Iterator[Content]:
    """Photographs of some of ILSVRC's classes, squashed to a square; by meta-split, by wnid, by the file's name.

    Other folders are never looked into. The folder is the user's own and no archive, so links in it are followed.
    Photographs are decoded in threads, a few ahead of the one that is asked for; what comes does not depend on how many
    threads there are.

    Args:
        folder: holds the class folders; see `class_folders`.
        title: of the benchmark, for messages.
        classes: meta-split → wnids.
        examples: meta-split → how many photographs its classes must hold.
        size: side of the square.
        progress: show a bar on standard error.
        workers: threads; `None` takes one for each processor that this process may use.
        class_sizes: the smallest and the largest number of photographs that a class may have. How many each has is
            published nowhere that we know of.

    Raises:
        ValueError: if a class folder is missing or empty or holds a `*.JPEG` file that is not named as one of its
            class, if a class is too small or too large or a meta-split holds another number of photographs, or, once
            they are read, for one that is damaged.
    """
    from tqdm import tqdm

    wnids = [wnid for split in META_SPLITS for wnid in sorted(classes[split])]
    folders = tqdm(wnids, f"{title}: list of files", unit="class", disable=not progress, file=sys.stderr)
    files = {wnid: _names(folder / wnid) for wnid in folders}
    for split in META_SPLITS:
        found = {wnid: len(files[wnid]) for wnid in sorted(classes[split])}
        _check_count(folder, title, split, found, examples[split], class_sizes)
    sizes = [len(names) for names in files.values()]
    workers = workers or _processors()
    prepare = squashed(size, size)

    def pixels(name: str) -> npt.NDArray[np.uint8]:
        return decode(_content(folder / name), name, folder, _FORMS, "RGB", prepare, "replace it by ILSVRC-2012's file")

    def blocks() -> Iterator[npt.NDArray[np.uint8]]:
        names = (f"{wnid}/{name}" for wnid, found in files.items() for name in found)
        results = _ahead(pool, pixels, names, _AHEAD * workers)
        for image in tqdm(results, title, sum(sizes), unit="image", disable=not progress, file=sys.stderr):
            yield image[np.newaxis]

    pool = ThreadPoolExecutor(workers, thread_name_prefix="metabridge-decode")
    try:
        yield Content(
            class_names=list(files),
            class_sizes=sizes,
            example_shape=(size, size, 3),
            dtype=np.uint8,
            blocks=blocks(),
            preparation=(
                f"{decoder()}: photographs of ILSVRC-2012, RGB, squashed to {size}x{size} by Pillow's bicubic filter, "
                "the sides' proportion is lost; published copies were resized by OpenCV, so that their pixels differ"
            ),
        )
    finally:  # after an error or an interruption, wait for no more than what is being decoded
        pool.shutdown(cancel_futures=True)


def _names(folder: Path) -> list[str]:
    """The photographs of a class in the order of their names; none if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(
                entry.name for entry in entries if entry.name.endswith(_ENDING) and not entry.name.startswith(".")
            )
    except (FileNotFoundError, NotADirectoryError):
        return []
    official = re.compile(rf"{re.escape(folder.name)}_[0-9]+{re.escape(_ENDING)}")
    for name in names:
        if official.fullmatch(name) is None:
            raise ValueError(
                f"{folder} must hold no *{_ENDING} files but ILSVRC-2012's {folder.name}_NUMBER{_ENDING}, got "
                f"{name!r}; take it out."
            )
    return names


def _check_count(
    folder: Path, title: str, split: str, sizes: Mapping[str, int], expected: int, limits: tuple[int, int]
) -> None:
    empty, found = [wnid for wnid, size in sizes.items() if not size], sum(sizes.values())
    outside = [f"{wnid} has {size:,}" for wnid, size in sizes.items() if not limits[0] <= size <= limits[1]]
    if found == expected and not outside:
        return
    reason = "no class folder is missing or empty, so that single files are"
    if empty:
        reason = f"missing or without *{_ENDING} files: {_some(empty)}"
    elif outside:
        reason = f"every class has {limits[0]:,} to {limits[1]:,} there, but {_some(outside)}"
    elif found > expected:
        reason = "there are files that are not ILSVRC-2012's"
    raise ValueError(
        f"{folder} must hold the {expected:,} photographs of the {len(sizes)} meta-{split} classes of {title}, got "
        f"{found:,} ({reason}); make it what ILSVRC-2012's training archive holds, each n….tar of which is unpacked "
        "into a folder of its name."
    )


def _some(words: Sequence[str]) -> str:
    """The first few, and how many more there are."""
    return ", ".join(words[:_NAMED]) + (f" and {len(words) - _NAMED} more" if len(words) > _NAMED else "")


def _content(path: Path) -> bytes:
    """A file's bytes; an error names the file, also where the disk fails in the middle of it."""
    try:
        check_file(path)
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check the disk and try again.") from error


def _ahead(
    pool: ThreadPoolExecutor, call: Callable[[Item], Result], items: Iterable[Item], pending: int
) -> Iterator[Result]:
    """`map(call, items)`, computed in the pool's threads, with at most so many results pending."""
    given = iter(items)
    futures: deque[Future[Result]] = deque(pool.submit(call, item) for item in islice(given, pending))
    while futures:
        yield futures.popleft().result()
        futures.extend(pool.submit(call, item) for item in islice(given, 1))


def _processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
