"""What every stored benchmark shares: official archives in, one store out, and a meta-dataset over the store."""

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from metabridge.datasets.fetch import Archive, fetch, verify
from metabridge.metadatasets import META_SPLITS, CombinationMetaDataset, resolve_meta_split
from metabridge.sources import HDF5Source, write_store
from metabridge.sources.hdf5 import Block, HDF5Selection
from metabridge.splitters import Splitter
from metabridge.transforms import Categorical, ClassAugmentation, ImageTransform

__all__ = [
    "Benchmark",
    "Content",
    "StoredMetaDataset",
    "blocks_of_classes",
    "build",
    "opens",
    "split_table",
    "store_path",
]


@dataclass(frozen=True)
class Content:
    """What a benchmark's archives hold, found out before an example is decoded.

    Attributes:
        class_names: C distinct names.
        class_sizes: examples of each class.
        example_shape: shape of one example.
        dtype: `uint8` for images, a floating dtype for features.
        blocks: examples as `write_store` takes them, made one at a time.
        preparation: what was done to the originals, for the store's provenance.
    """

    class_names: Sequence[str]
    class_sizes: Sequence[int]
    example_shape: tuple[int, ...]
    dtype: npt.DTypeLike
    blocks: Iterable[Block]
    preparation: str


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: a table entry and one function that reads its archives.

    Attributes:
        name: on the command line and in folder names.
        title: in messages and lists.
        description: one line: what it is, how many examples, who made it.
        licence: what is known of the terms.
        archives: the official files, all of which are needed; none if no checksum of them is known.
        read: from the verified archives (or one folder with their unpacked content) and whether to show progress, to a
            context that holds their `Content`.
        split: meta-split → names of its classes.
        downloads: folder below the root for archives; benchmarks made from the same archive share it.
        by_hand: where there are no `archives`: which single file to get, and where. `read` then checks its content,
            and its checksum is recorded.
    """

    name: str
    title: str
    description: str
    licence: str
    archives: tuple[Archive, ...]
    read: Callable[[Sequence[Path], bool], AbstractContextManager[Content]]
    split: Callable[[], Mapping[str, Sequence[str]]]
    downloads: str
    by_hand: str = ""

    @property
    def num_classes(self) -> int:
        """Classes of all meta-splits together."""
        return sum(len(self.split()[meta_split]) for meta_split in META_SPLITS)


class StoredMetaDataset(CombinationMetaDataset):
    """N-way tasks over the classes of one meta-split of a built benchmark; each benchmark is a subclass.

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
        download: fetch and build what is not built yet.

    Raises:
        FileNotFoundError: if the benchmark is not built and `download` is false.
        TypeError: if `num_classes_per_task` is no integer.
        ValueError: for an unknown meta-split, fewer classes than ways, or more examples than the smallest class has.
    """

    benchmark: ClassVar[Benchmark]

    def __init__(
        self,
        root: str | os.PathLike[str],
        num_classes_per_task: int | None = None,
        meta_train: bool = False,
        meta_val: bool = False,
        meta_test: bool = False,
        meta_split: str | None = None,
        transform: ImageTransform | Sequence[ImageTransform] | None = None,
        target_transform: Categorical | None = None,
        dataset_transform: Splitter | None = None,
        class_augmentations: Sequence[ClassAugmentation] | Mapping[str, Sequence[ClassAugmentation]] | None = None,
        download: bool = False,
    ) -> None:
        if num_classes_per_task is None:
            raise TypeError("`num_classes_per_task` must be an integer, got None; pass for example 5.")
        split = resolve_meta_split(meta_train, meta_val, meta_test, meta_split)
        store = store_path(self.benchmark, root)
        if download and not opens(store):
            build(self.benchmark, root)
        if not store.is_file():
            raise FileNotFoundError(
                f"{self.benchmark.title} is not built: there is no {store}. {_how_to_build(self.benchmark, root)}"
            )
        source = HDF5Source(store)
        super().__init__(
            self._kept(source.select(_ids(source.class_names, self.benchmark.split()[split], store))),
            num_classes_per_task,
            split,
            target_transform,
            dataset_transform,
            class_augmentations,
            transform,
        )

    def _kept(self, source: HDF5Selection) -> HDF5Selection:
        """The classes to draw from, of those of the meta-split; a subclass may leave some out."""
        return source


def _how_to_build(benchmark: Benchmark, root: str | os.PathLike[str]) -> str:
    if benchmark.by_hand:
        return f"{benchmark.by_hand} Then run `metabridge build {benchmark.name} --root {root} --from FILE`."
    return f"Build it with `metabridge build {benchmark.name} --root {root}`, or pass download=True."


def _ids(class_names: Sequence[str], wanted: Sequence[str], store: Path) -> list[int]:
    positions = {name: i for i, name in enumerate(class_names)}
    missing = [name for name in wanted if name not in positions]
    if missing:
        raise ValueError(
            f"{store} must hold every class of the split, {len(missing)} of {len(wanted)} are missing, first "
            f"{missing[0]!r}; delete the file and build it again."
        )
    return sorted(positions[name] for name in wanted)


def store_path(benchmark: Benchmark, root: str | os.PathLike[str]) -> Path:
    """Where the built store is, or will be: `root/<name>/<name>.h5`."""
    return Path(root) / benchmark.name / f"{benchmark.name}.h5"


def opens(store: Path) -> bool:
    """Whether a store is there and whole enough to be read."""
    if not store.is_file():
        return False
    try:
        HDF5Source(store)
    except ValueError:
        return False
    return True


def build(
    benchmark: Benchmark,
    root: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Path:
    """Build a benchmark's store unless it is built already.

    A store that opens is left alone: delete the file to build it again. Archives are verified before they are opened,
    and read in place. An error or an interruption leaves no store, and of two builds at once either one's whole store
    stays. Only a killed process can leave something behind, a hidden `.part` file beside the store: it is never read,
    and may be deleted when no build is running.

    Args:
        benchmark: which.
        root: folder with the built benchmarks; archives are downloaded to `root/<downloads>/downloads`.
        source: where the official files are; `None` downloads them. The archive, if there is one; a folder that holds
            the archives; or a folder with their unpacked content. Where nothing can be downloaded, the single file.
        progress: show bars, and whether there was anything to do, on standard error.

    Returns:
        Path of the store.

    Raises:
        ConnectionError: if no address delivers an archive.
        FileNotFoundError: if `source` does not exist or does not hold what is needed, or is `None` for a benchmark
            that has no download.
        ValueError: for a wrong checksum, an unsafe or damaged archive or image, and for files of another dataset.
    """
    store = store_path(benchmark, root)
    if opens(store):
        if progress:
            print(f"{store} is built already; delete the file to build it again.", file=sys.stderr)
        return store
    if source is None:
        if benchmark.by_hand:
            raise FileNotFoundError(
                f"{benchmark.title} cannot be downloaded, as no checksum of the official file is known. "
                f"{_how_to_build(benchmark, root)}"
            )
        downloads = Path(root) / benchmark.downloads / "downloads"
        paths = [fetch(archive, downloads, progress) for archive in benchmark.archives]
    else:
        paths = _locate(benchmark, Path(source))
    with benchmark.read(paths, progress) as content:
        _check_classes(benchmark, content, paths)
        write_store(
            store,
            content.class_names,
            content.class_sizes,
            content.example_shape,
            content.dtype,
            content.blocks,
            {
                "benchmark": benchmark.name,
                "archives": {path.resolve().name: _checksum(benchmark, path) for path in paths},
                "preparation": content.preparation,
            },
        )
    return store


def _locate(benchmark: Benchmark, source: Path) -> list[Path]:
    """The verified archives below or at `source`, or the folder itself if it holds none of them."""
    if not source.exists():
        raise FileNotFoundError(
            f"`source` must be an archive or a folder, there is nothing at {source}; check the path."
        )
    if benchmark.by_hand:
        if not source.is_file():
            raise ValueError(f"`source` must be one file, got the folder {source}. {benchmark.by_hand}")
        return [source]
    names = ", ".join(archive.name for archive in benchmark.archives)
    if source.is_file():
        if len(benchmark.archives) > 1:
            raise ValueError(f"`source` must be a folder that holds {names}, got the file {source}; pass its folder.")
        verify(source, benchmark.archives[0])
        return [source]
    present = [archive for archive in benchmark.archives if (source / archive.name).is_file()]
    if not present:
        return [source]
    missing = [archive for archive in benchmark.archives if archive not in present]
    if missing:
        raise FileNotFoundError(f"`source` must hold {names}, {source} lacks {missing[0]}; put it there.")
    for archive in present:
        verify(source / archive.name, archive)
    return [source / archive.name for archive in present]


def _check_classes(benchmark: Benchmark, content: Content, paths: Sequence[Path]) -> None:
    expected = {name for meta_split in META_SPLITS for name in benchmark.split()[meta_split]}
    missing, unknown = sorted(expected - set(content.class_names)), sorted(set(content.class_names) - expected)
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"holds {unknown[0]!r} besides"
        raise ValueError(
            f"{paths[0]} must hold the {len(expected)} classes of {benchmark.title}, it has {len(content.class_names)} "
            f"and {what}; pass the official files."
        )


def _checksum(benchmark: Benchmark, path: Path) -> str:
    if benchmark.by_hand:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    known = {archive.name: archive.checksum for archive in benchmark.archives}
    return "folder" if path.is_dir() else known[path.name] if path.name in known else benchmark.archives[0].checksum


@cache
def split_table(name: str) -> Mapping[str, Any]:
    """The official split of a benchmark: `"train"`, `"val"` and `"test"` with the names of their classes, and the
    `"source"` and `"paper"` they are from."""
    table = resources.files("metabridge.datasets").joinpath("splits", f"{name}.json")
    entries = json.loads(table.read_text(encoding="utf-8"))
    return MappingProxyType({key: tuple(each) if isinstance(each, list) else each for key, each in entries.items()})


def blocks_of_classes(
    title: str, classes: Sequence[str], load: Callable[[str], npt.NDArray[Any]], progress: bool
) -> Iterator[npt.NDArray[Any]]:
    """One block `(n, …)` for each class, under a progress bar on standard error."""
    from tqdm import tqdm

    for name in tqdm(classes, title, unit="class", disable=not progress, file=sys.stderr):
        yield np.ascontiguousarray(load(name))
