"""The frame of every stored benchmark: official archives in, one store out, and a meta-dataset over the store."""

import copy
import errno
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypedDict

import numpy as np
import numpy.typing as npt

from metabridge.archives.fetch import Archive, check_place, fetch, verify
from metabridge.checks import check_choice, check_integer, check_path
from metabridge.episodes.metadatasets import META_SPLITS, CombinationMetaDataset, resolve_meta_split
from metabridge.episodes.splitters import Splitter
from metabridge.sources import ArraySource, HDF5Source, write_store
from metabridge.sources.hdf5 import Block, HDF5Selection
from metabridge.storage.atomic import remove_orphans
from metabridge.storage.kinds import check_target
from metabridge.transforms import Categorical, ClassAugmentation, ImageTransform

__all__ = [
    "Arguments",
    "Benchmark",
    "Content",
    "SplitRule",
    "StoredMetaDataset",
    "Variant",
    "blocks_of_classes",
    "build",
    "check_identity",
    "split_table",
    "store_path",
    "table_split",
]

_PLENTY = 1 << 30


@dataclass(frozen=True)
class Content:
    """The content of a benchmark's archives, found out before an example is decoded.

    Attributes:
        class_names: C distinct names.
        class_sizes: examples of each class.
        example_shape: shape of one example, the variant's.
        dtype: that of the variant.
        blocks: examples as `write_store` takes them, made one at a time.
        preparation: what was done to the originals, for the store's provenance.
    """

    class_names: Sequence[str]
    class_sizes: Sequence[int]
    example_shape: tuple[int, ...]
    dtype: npt.DTypeLike
    blocks: Iterable[Block]
    preparation: str


SplitRule = Callable[[Sequence[str]], Mapping[str, Sequence[str]]]
"""From the class names of a store, or none if it is not built, to meta-split → names of its classes. Empty if that
cannot be said without the names."""


@dataclass(frozen=True)
class Variant:
    """One store that a benchmark can be built as.

    Attributes:
        archives: the official files, all of which are needed; none if they cannot be fetched and checked.
        read: from one path for each archive (verified, or a folder with its unpacked content), or from one folder with
            the content of all, and whether to show progress, to a context that holds their `Content`. Where there are
            no archives, from the one path that a user names, whatever is there.
        splits: the official splits by name, the default one first.
        num_classes: classes of all meta-splits together.
        num_examples: examples as published: of each meta-split of the default split, or of all together; empty if
            neither is known.
        example_shape: shape of one example.
        dtype: `uint8` for images, `float32` for features.
        folders: the one top folder inside each archive, by which unpacked archives are found one by one. Without it
            `read` gets a folder that holds none of the archives as its only path.
        by_hand: where there are no archives: what to get, and where.
    """

    archives: tuple[Archive, ...]
    read: Callable[[Sequence[Path], bool], AbstractContextManager[Content]]
    splits: Mapping[str, SplitRule]
    num_classes: int
    num_examples: tuple[int, ...]
    example_shape: tuple[int, ...]
    dtype: npt.DTypeLike
    folders: tuple[str, ...] = ()
    by_hand: str = ""

    @property
    def num_bytes(self) -> int:
        """Size of the store's examples, 0 if it is not known before it is built."""
        return sum(self.num_examples) * math.prod(self.example_shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Benchmark:
    """One benchmark: what it is, and the stores it can be built as.

    Attributes:
        name: on the command line and in folder names.
        title: in messages.
        description: a few words and the paper, for a list.
        terms: a word or two on them, for the same list.
        licence: what is known of the terms.
        variants: the stores by name, the default one first. One alone is called `"full"`.
        downloads: folder below the root for archives; benchmarks made from the same archive share it.
        ways: classes per task unless the caller says how many.
    """

    name: str
    title: str
    description: str
    terms: str
    licence: str
    variants: Mapping[str, Variant]
    downloads: str
    ways: int = 5

    @property
    def default_variant(self) -> str:
        """The variant that is meant where none is named."""
        return next(iter(self.variants))

    def variant_name(self, variant: str | None) -> str:
        """The name of a known variant, the default one for `None`.

        Raises:
            ValueError: for an unknown one.
        """
        if variant is None:
            return self.default_variant
        check_choice(variant, "variant", self.variants, owner=self.name)
        return variant


class Arguments(TypedDict, total=False):
    """The keyword arguments of every `StoredMetaDataset`, for those that have further ones of their own."""

    meta_train: bool
    meta_val: bool
    meta_test: bool
    meta_split: str | None
    transform: ImageTransform | Sequence[ImageTransform] | None
    target_transform: Categorical | None
    dataset_transform: Splitter | None
    class_augmentations: Sequence[ClassAugmentation] | Mapping[str, Sequence[ClassAugmentation]] | None
    download: bool
    check_examples: bool


class StoredMetaDataset(CombinationMetaDataset):
    """N-way tasks over the classes of one meta-split of a built benchmark; each benchmark is a subclass.

    A subclass names its `benchmark`. If that has several variants or splits, it sets `self.variant` and `self.split`
    before it calls `super().__init__`; left alone, they become the names of the default ones.

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
        download: fetch and build what is not built yet. Before that the other arguments are checked, as far as that is
            possible without the examples.
        check_examples: compare the examples of each class with their stored digest when the class is first read; see
            `HDF5Source`.

    Raises:
        FileNotFoundError: if the benchmark is not built and `download` is false.
        TypeError: if `num_classes_per_task` is no integer.
        ValueError: for a store of something else under the benchmark's name, an unknown meta-split or one without
            classes, fewer classes than ways, or more examples than the smallest class has.
    """

    benchmark: ClassVar[Benchmark]
    variant: str | None = None
    split: str | None = None

    def __init__(
        self,
        root: str | os.PathLike[str],
        num_classes_per_task: int | None = None,
        *,
        meta_train: bool = False,
        meta_val: bool = False,
        meta_test: bool = False,
        meta_split: str | None = None,
        transform: ImageTransform | Sequence[ImageTransform] | None = None,
        target_transform: Categorical | None = None,
        dataset_transform: Splitter | None = None,
        class_augmentations: Sequence[ClassAugmentation] | Mapping[str, Sequence[ClassAugmentation]] | None = None,
        download: bool = False,
        check_examples: bool = True,
    ) -> None:
        num_classes_per_task = check_integer(num_classes_per_task, "num_classes_per_task", "pass for example 5")
        meta_split = resolve_meta_split(meta_train, meta_val, meta_test, meta_split)
        self.variant = variant = self.benchmark.variant_name(self.variant)
        chosen = self.benchmark.variants[variant]
        title, splits = _title(self.benchmark, variant), chosen.splits
        self.split = split = next(iter(splits)) if self.split is None else self.split
        classes = _classes_of(title, splits, split, meta_split, ())
        store = store_path(self.benchmark, root, variant)
        arguments = num_classes_per_task, meta_split, target_transform, dataset_transform, class_augmentations
        if download and _opened(store) is None:
            rehearsal = copy.copy(self)  # or a mistake in an argument would be found only after hours of downloading
            rehearsal._take(_stand_in(chosen, classes), *arguments, transform)
            build(self.benchmark, root, variant)
        if not store.is_file():
            raise FileNotFoundError(
                f"{title} is not built: there is no {store}. {_how_to_build(self.benchmark, root, variant)}"
                f"{_built_variants(self.benchmark, root)}"
            )
        source = HDF5Source(store, check_examples)
        check_identity(source, self.benchmark, variant)
        classes = _classes_of(title, splits, split, meta_split, source.class_names)
        kept = self._kept(source.select(_ids(source.class_names, classes, store)))
        self._take(kept, *arguments, self._transform(source, transform))

    def _take(self, *arguments: Any) -> None:
        """Become the meta-dataset over a source, by the constructor of `CombinationMetaDataset`."""
        super().__init__(*arguments)

    def _transform(
        self, store: HDF5Source, transform: ImageTransform | Sequence[ImageTransform] | None
    ) -> ImageTransform | Sequence[ImageTransform] | None:
        """The transforms of the inputs, from those asked for; a subclass may find out more of them in the store."""
        del store
        return transform

    def _kept(self, source: HDF5Selection) -> HDF5Selection:
        """The classes to draw from, of those of the meta-split; a subclass may leave some out."""
        return source


def _stand_in(variant: Variant, classes: Sequence[str]) -> ArraySource:
    """A source like that of the store, but of zeros: these classes, or as many as there can be, with examples in
    plenty. It takes no memory."""
    names = classes or [f"class {i}" for i in range(variant.num_classes)]
    examples = np.broadcast_to(np.zeros((), variant.dtype), (_PLENTY, *variant.example_shape))
    return ArraySource(examples, [0] * len(names), [_PLENTY] * len(names), names)


def _title(benchmark: Benchmark, variant: str) -> str:
    return benchmark.title if len(benchmark.variants) == 1 else f"{benchmark.title} {variant!r}"


def _classes_of(
    title: str, splits: Mapping[str, SplitRule], split: str, meta_split: str, class_names: Sequence[str]
) -> Sequence[str]:
    """The classes of one meta-split of the named split; none if only the names in the store could tell."""
    check_choice(split, "split", splits, owner=title)
    classes = splits[split](class_names)
    if classes and not classes.get(meta_split):
        present = " or ".join(f"meta-{name}" for name in META_SPLITS if classes.get(name))
        others = [f", or use the split {name!r}" for name in splits if splits[name](class_names).get(meta_split)]
        raise ValueError(
            f"the split {split!r} of {title} has no meta-{meta_split} classes; ask for {present}{''.join(others[:1])}."
        )
    return classes.get(meta_split, ())


def _build_command(benchmark: Benchmark, variant: str, root: str | os.PathLike[str]) -> str:
    chosen = "" if len(benchmark.variants) == 1 else f" --variant {variant}"
    return f"metabridge build {benchmark.name}{chosen} --root {root}"


def _how_to_build(benchmark: Benchmark, root: str | os.PathLike[str], variant: str) -> str:
    command = _build_command(benchmark, variant, root)
    by_hand = benchmark.variants[variant].by_hand
    if by_hand:
        return f"{by_hand} Then run `{command} --from PATH`."
    return f"Build it with `{command}`, or pass download=True."


def _built_variants(benchmark: Benchmark, root: str | os.PathLike[str]) -> str:
    """The end of a message: which other variants are built."""
    built = [repr(name) for name in benchmark.variants if store_path(benchmark, root, name).is_file()]
    return f" Already built: `variant` {' and '.join(built)}." if built else ""


def _ids(class_names: Sequence[str], wanted: Sequence[str], store: Path) -> list[int]:
    positions = {name: i for i, name in enumerate(class_names)}
    missing = [name for name in wanted if name not in positions]
    if missing:
        raise ValueError(
            f"{store} must hold every class of the split, {len(missing)} of {len(wanted)} are missing, first "
            f"{missing[0]!r}; delete the file and build it again."
        )
    return sorted(positions[name] for name in wanted)


def store_path(benchmark: Benchmark, root: str | os.PathLike[str], variant: str | None = None) -> Path:
    """Where a variant's built store is, or will be: `root/<name>/<variant>.h5`.

    Raises:
        ValueError: for an unknown variant.
    """
    return check_path(root, "root") / benchmark.name / f"{benchmark.variant_name(variant)}.h5"


def _opened(store: Path) -> HDF5Source | None:
    """The store, if it is there and whole enough to be read."""
    if not store.is_file():
        return None
    try:
        return HDF5Source(store)
    except ValueError:
        return None


def check_identity(source: HDF5Source, benchmark: Benchmark, variant: str) -> None:
    """Check that a store is the one that its name promises.

    Raises:
        ValueError: unless it was built as this variant and its examples have the variant's shape and dtype.
    """
    chosen = benchmark.variants[variant]
    expected = (benchmark.name, variant, _form(chosen.example_shape, chosen.dtype))
    facts = source.provenance
    found = (facts.get("benchmark"), facts.get("variant"), _form(source.example_shape, source.dtype))
    if found != expected:
        raise ValueError(
            f"{source.path} must hold the benchmark {expected[0]!r}, variant {expected[1]!r}, of examples "
            f"{expected[2]}; it holds {found[0]!r}, variant {found[1]!r}, of examples {found[2]}: move the file away, "
            "and build what belongs there."
        )


def _form(example_shape: tuple[int, ...], dtype: npt.DTypeLike) -> str:
    return f"{tuple(example_shape)} {np.dtype(dtype).name}"


def build(
    benchmark: Benchmark,
    root: str | os.PathLike[str],
    variant: str | None = None,
    source: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Path:
    """Build the store of one variant of a benchmark, unless it is built already.

    A store that opens is left alone: delete the file to build it again. Archives are verified before they are opened,
    and read in place. An error or an interruption leaves no store, and of two builds at once either one's whole store
    stays. Only a killed process can leave something behind, a hidden `.part` file beside the store: it is never read,
    and the next build of the same store removes it, where the file system has locks.

    Args:
        benchmark: which.
        root: folder with the built benchmarks; archives are downloaded to `root/<downloads>/downloads`.
        variant: which of its variants; `None` means the first.
        source: where the official files are; `None` downloads them. The archive, if it is the only one; or a folder
            that holds the archives or their unpacked content (where it holds both, the archive is taken). Where nothing
            can be downloaded, the file or folder that the error without `source` describes.
        progress: show bars, and whether there was anything to do, on standard error.

    Returns:
        Path of the store.

    Raises:
        ConnectionError: if no address delivers an archive.
        FileExistsError: if a folder, a link, a named pipe or a device is where the store or a download belongs.
        FileNotFoundError: if `source` does not exist or does not hold what is needed, or is `None` for a variant
            that has no download.
        OSError: if the disk has not enough space for the store and what is to be downloaded, before anything is.
        ValueError: for an unknown variant, a store of something else under this name, a wrong checksum, an unsafe or
            damaged archive or image, and for files of another dataset.
    """
    variant = benchmark.variant_name(variant)
    store, chosen = store_path(benchmark, root, variant), benchmark.variants[variant]
    if store.parent.is_dir():
        remove_orphans(store)  # they would take space, and once the store is built no writer removes them
    built = _opened(store)
    if built is not None:
        check_identity(built, benchmark, variant)
        if progress:
            unread = "" if source is None else f" {source} was not read."
            print(
                f"{store} is built already{_preparation(built)}; delete the file to build it again.{unread}",
                file=sys.stderr,
            )
        return store
    check_target(store)
    if source is None:
        if chosen.by_hand:
            raise FileNotFoundError(
                f"{_title(benchmark, variant)} cannot be downloaded, as no archive is known that can be both fetched "
                f"and checked. {_how_to_build(benchmark, root, variant)}"
            )
        downloads = Path(root) / benchmark.downloads / "downloads"
        for archive in chosen.archives:
            check_place(archive, downloads)
        _check_space(store, chosen, downloads)
        try:
            paths = [fetch(archive, downloads, progress) for archive in chosen.archives]
        except (ConnectionError, ValueError) as error:
            raise type(error)(f"{error} {_by_hand(benchmark, variant, root, downloads)}") from None
    else:
        paths = _locate(chosen, Path(source))
    with chosen.read(paths, progress) as content:
        _check_form(benchmark, variant, content)
        _check_classes(benchmark.title, chosen, content, paths)
        write_store(
            store,
            content.class_names,
            content.class_sizes,
            content.example_shape,
            content.dtype,
            content.blocks,
            {
                "benchmark": benchmark.name,
                "variant": variant,
                "archives": _checksums(chosen, paths),
                "preparation": content.preparation,
            },
        )
    return store


def _preparation(built: HDF5Source) -> str:
    """How the examples were made, where the store says it: the same name may stand for another preparation."""
    preparation = built.provenance.get("preparation")
    return f" ({preparation})" if preparation else ""


def _check_space(store: Path, variant: Variant, downloads: Path) -> None:
    """Check that the disks have room for the store and for the archives that are still to be downloaded, as far as
    their sizes are known.

    Raises:
        OSError: if one has not.
    """
    left = sum(_left_to_download(archive, downloads) for archive in variant.archives)
    needs: dict[int, int] = {}
    for folder, count in ((store.parent, variant.num_bytes), (downloads, left)):
        place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        device = place.stat().st_dev
        needs[device] = needs.get(device, 0) + count
        free = shutil.disk_usage(place).free
        if needs[device] > free:
            raise OSError(
                errno.ENOSPC,
                f"{store} cannot be built ({os.strerror(errno.ENOSPC)}): it and what is left to download need "
                f"{needs[device]:,} bytes on the disk of {place}, and {free:,} are free; nothing was downloaded. Free "
                "some space or choose another folder",
            )


def _left_to_download(archive: Archive, downloads: Path) -> int:
    """Bytes of an archive that are not here yet, 0 if its size is unknown."""
    if (downloads / archive.name).exists():
        return 0
    try:
        held = (downloads / f".{archive.name}.part").stat().st_size  # `fetch` goes on from there
    except FileNotFoundError:
        held = 0
    return max(0, (archive.about if archive.size is None else archive.size) - held)


def _by_hand(benchmark: Benchmark, variant: str, root: str | os.PathLike[str], downloads: Path) -> str:
    """Advice on all the archives of a variant once one could not be downloaded."""
    archives = benchmark.variants[variant].archives
    command = f"{_build_command(benchmark, variant, root)} --from"
    if len(archives) == 1:
        return f"Then build again; or, wherever the file is, with `{command} FILE`."
    listed = "".join(f"\n  {archive} from {' or '.join(archive.addresses)}" for archive in archives)
    return (
        f"This build needs {len(archives)} archives:{listed}\nThose in {downloads} are taken from there; or put all "
        f"into one folder and build with `{command} FOLDER`."
    )


def _locate(variant: Variant, source: Path) -> list[Path]:
    """For each archive, the verified file at or below `source` or its unpacked folder; or what was got by hand."""
    if not source.exists():
        raise FileNotFoundError(
            f"`source` must be an archive or a folder, there is nothing at {source}; check the path."
        )
    if variant.by_hand:
        return [source]
    if source.is_dir():
        if not variant.folders and not any((source / archive.name).is_file() for archive in variant.archives):
            return [source]
        folders = variant.folders or [None] * len(variant.archives)
        return [_in_folder(source, *each) for each in zip(variant.archives, folders, strict=True)]
    if len(variant.archives) > 1:
        raise ValueError(
            f"`source` must be a folder that holds all {len(variant.archives)} archives, "
            f"{' and '.join(archive.name for archive in variant.archives)}, got the file {source}; pass its folder."
        )
    verify(source, variant.archives[0])
    return [source]


def _in_folder(source: Path, archive: Archive, folder: str | None) -> Path:
    """The verified archive in a folder, or the folder that was unpacked from it."""
    path = source / archive.name
    if path.is_file():
        verify(path, archive)
        return path
    if folder is not None and (source / folder).is_dir():
        return source / folder
    if folder is not None and source.resolve().name == folder:
        return source
    unpacked = "" if folder is None else f" or the unpacked folder {folder}"
    raise FileNotFoundError(
        f"`source` must hold {archive.name}{unpacked}, {source} does not; download the archive from "
        f"{' or '.join(archive.addresses)}."
    )


def _check_form(benchmark: Benchmark, variant: str, content: Content) -> None:
    chosen = benchmark.variants[variant]
    announced, found = (_form(each.example_shape, each.dtype) for each in (chosen, content))
    if found != announced:
        raise RuntimeError(
            f"the builder of {_title(benchmark, variant)} must make examples of {announced}, as its variant says, it "
            f"makes {found}; mend one of the two, or report it if the benchmark is not yours."
        )


def _check_classes(title: str, variant: Variant, content: Content, paths: Sequence[Path]) -> None:
    splits = [split(()) for split in variant.splits.values()]
    expected = {name for split in splits for names in split.values() for name in names} or set(content.class_names)
    missing, unknown = sorted(expected - set(content.class_names)), sorted(set(content.class_names) - expected)
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"holds {unknown[0]!r} besides"
        raise ValueError(
            f"{paths[0]} must hold the {len(expected)} classes of {title}, it has {len(content.class_names)} and "
            f"{what}; pass the official files."
        )


def _checksums(variant: Variant, paths: Sequence[Path]) -> dict[str, str]:
    """Checksums of the files a store was built from, by name."""
    if len(paths) == len(variant.archives):
        known = zip(variant.archives, paths, strict=True)
        return {archive.name: "folder" if path.is_dir() else archive.checksum for archive, path in known}
    (path,) = paths
    if path.is_dir():
        return {path.resolve().name: "folder"}
    with path.open("rb") as file:
        return {path.resolve().name: f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"}


def table_split(name: str, class_names: Sequence[str] = ()) -> Mapping[str, Sequence[str]]:
    """A split whose classes are listed in the table `name`; the names in a store do not matter."""
    del class_names
    return {meta_split: split_table(name)[meta_split] for meta_split in META_SPLITS}


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
