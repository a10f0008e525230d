"""The stores below a root: which benchmarks are built there, and the stores that users make of their own images."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from metabridge.checks import check_path, did_you_mean
from metabridge.datasets.benchmarks import Benchmark, check_identity
from metabridge.datasets.catalogue import BENCHMARKS, TOYS
from metabridge.episodes.metadatasets import CombinationMetaDataset, MetaDataset
from metabridge.episodes.splitters import ClassSplitter
from metabridge.sources import HDF5Source, ImageFolderSource, save_source
from metabridge.sources.hdf5 import FormatVersionError

__all__ = [
    "StoreFacts",
    "build_own_store",
    "check_dataset",
    "find_benchmark",
    "inspect_store",
    "load_own_store",
    "own_store",
    "own_store_path",
    "own_stores",
    "verify_store",
]

_OWN_NAME = r"\w[\w.-]*"


class StoreFacts(NamedTuple):
    """The facts of one store that can be told without reading its examples."""

    path: Path
    """Where the store is, or will be once it is built."""
    state: str
    """`"not built"`, `"built"`, `"other format"`, `"other content"`, `"damaged"` or `"unreadable"`."""
    num_bytes: int
    """Size of the file; of a store that is not built the expected size of its examples, 0 where it is unknown."""
    class_sizes: Mapping[str, int]
    """Class → number of its examples; empty unless the store is built."""
    example_shape: tuple[int, ...]
    """Shape of one example, `()` where it is unknown."""
    fingerprint: str = ""
    """The recorded fingerprint, empty unless the store is built."""
    note: str = ""
    """How the examples were made, or why the file cannot be used and what to do."""

    def count(self, classes: Sequence[str]) -> int:
        """Count the examples of these classes."""
        return sum(self.class_sizes.get(name, 0) for name in classes)


def inspect_store(
    path: str | os.PathLike[str], benchmark: Benchmark | None = None, variant: str | None = None
) -> StoreFacts:
    """Tell the facts of the store at `path`, built or not; an error of the file is one of them.

    Args:
        path: the store's file, as `store_path` gives it.
        benchmark: the benchmark that belongs there, for the facts of a store that is not built.
        variant: which of its variants; `None` means the first.
    """
    path = Path(path)
    variant = None if benchmark is None else benchmark.variant_name(variant)
    expected: tuple[int, ...] = ()
    num_bytes = announced = 0
    if benchmark is not None and variant is not None:
        chosen = benchmark.variants[variant]
        expected, announced = tuple(chosen.example_shape), chosen.num_bytes
    try:
        num_bytes = path.stat().st_size
        stored = HDF5Source(path)
    except (FileNotFoundError, NotADirectoryError):
        return StoreFacts(path, "not built", announced, {}, expected)
    except FormatVersionError as error:
        return StoreFacts(path, "other format", num_bytes, {}, expected, note=str(error))
    except ValueError as error:
        return StoreFacts(path, "damaged", num_bytes, {}, expected, note=str(error))
    except (OSError, MemoryError) as error:
        return StoreFacts(path, "unreadable", num_bytes, {}, expected, note=str(error))
    if benchmark is not None and variant is not None:
        try:
            check_identity(stored, benchmark, variant)
        except ValueError as error:
            return StoreFacts(path, "other content", num_bytes, {}, expected, note=str(error))
    sizes = dict(zip(stored.class_names, stored.class_sizes.tolist(), strict=True))
    note = f"preparation: {stored.provenance.get('preparation', 'not recorded')}"
    return StoreFacts(path, "built", num_bytes, sizes, stored.example_shape, stored.fingerprint, note)


def verify_store(path: str | os.PathLike[str]) -> None:
    """Read the whole store and check its examples against the recorded fingerprint.

    Raises:
        FileNotFoundError: if there is no store at `path`.
        ValueError: if the examples differ from those that were written, or the file is no store.
    """
    stored = HDF5Source(path)
    found = stored.recompute_fingerprint()
    if found != stored.fingerprint:
        raise ValueError(
            f"{path} holds other examples than were written: its fingerprint is {found}, recorded is "
            f"{stored.fingerprint}; delete the file and build it again."
        )


def build_own_store(
    dataset: str,
    root: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    resize: int | None = None,
    mode: str | None = None,
) -> Path:
    """Store a folder of images, one folder for each class, under a name of one's own below a root.

    Args:
        dataset: the new store's name, of letters, digits, `-`, `_` and `.`.
        root: folder of the stores.
        folder: folder with one folder of images for each class, as `ImageFolderSource` takes it.
        resize: side in pixels to which the images are resized; `None` keeps them and requires equal sizes.
        mode: `"L"`, `"RGB"` or `"RGBA"`, to which the images are converted; `None` requires one mode.

    Returns:
        Path of the store.

    Raises:
        FileExistsError: if there is a store of this name already.
        UnequalExamplesError: if the images differ in size or mode; a `ValueError`.
        ValueError: for the name of a benchmark or one that is no file name, and for a folder without classes.
    """
    if dataset in BENCHMARKS or dataset in TOYS:
        raise ValueError(f"`dataset` must be a name of your own, {dataset!r} is that of a benchmark.")
    if not re.fullmatch(_OWN_NAME, dataset):
        raise ValueError(f"`dataset` must be a name of letters, digits, '-', '_' and '.', got {dataset!r}.")
    path = own_store_path(dataset, root)
    if path.exists():
        raise FileExistsError(
            f"{path} exists already; delete it, choose another name, or check it with `metabridge build {dataset} "
            f"--root {root} --verify`."
        )
    images = ImageFolderSource(folder, resize=resize, mode=mode)
    save_source(images, path, {"benchmark": dataset, "folder": str(folder)})
    return path


def own_store(dataset: str, root: str | os.PathLike[str]) -> Path | None:
    """Path of the store that `build_own_store` made under this name, `None` if there is none."""
    path = own_store_path(dataset, root)
    is_own = dataset not in BENCHMARKS and re.fullmatch(_OWN_NAME, dataset)
    return path if is_own and os.path.isfile(path) else None  # noqa: PTH113  # no error where it may not be looked at


def own_stores(root: str | os.PathLike[str]) -> dict[str, Path]:
    """Name → path of every store of one's own below a root, sorted by path."""
    paths = sorted(check_path(root, "root").glob("*/*.h5"))
    return {path.stem: path for path in paths if own_store(path.stem, root) == path}


def own_store_path(dataset: str, root: str | os.PathLike[str]) -> Path:
    """Where the store of this name is, or will be once it is built."""
    return check_path(root, "root") / dataset / f"{dataset}.h5"


def load_own_store(
    path: str | os.PathLike[str], ways: int | None = None, shots: int = 1, test_shots: int = 15
) -> MetaDataset:
    """A meta-dataset over all classes of a store of one's own, with support and query sets.

    Args:
        path: the store.
        ways: classes per task; `None` means five, or all where there are fewer.
        shots: support examples per class.
        test_shots: query examples per class.

    Raises:
        FileNotFoundError: if there is no store at `path`.
        ValueError: for more ways or examples than the store has.
    """
    source = HDF5Source(path)
    dataset = CombinationMetaDataset(source, min(5, len(source)) if ways is None else ways)
    return ClassSplitter(dataset, num_train_per_class=shots, num_test_per_class=test_shots)


def find_benchmark(dataset: str, root: str | os.PathLike[str]) -> Benchmark:
    """The benchmark of this name.

    Raises:
        ValueError: for a toy problem and for an unknown name; the message proposes similar names, stores of one's
            own below `root` among them.
    """
    if dataset in TOYS:
        raise ValueError(
            f"`dataset` must be a stored benchmark, {dataset!r} is computed: it has no store and no splits."
        )
    check_dataset(dataset, BENCHMARKS, root)
    return BENCHMARKS[dataset]


def check_dataset(dataset: str, known: Iterable[str], root: str | os.PathLike[str]) -> None:
    """Raise `ValueError` unless `dataset` is a known name; the message says how to build a store of one's own.

    Args:
        dataset: the name that was given.
        known: the names that fit, without those of stores of one's own.
        root: folder of the stores.
    """
    names = list(known)
    if dataset not in names:
        raise ValueError(
            f"`dataset` must be one of {', '.join(map(repr, names))}, or a store of yours below {root}, "
            f"got {dataset!r}{did_you_mean(dataset, [*names, *TOYS, *own_stores(root)])} Images of your own: "
            f"`metabridge build {_proposed_name(dataset)} --root {root} --from-folder FOLDER`."
        )


def _proposed_name(dataset: str) -> str:
    """The name itself if a store can have it."""
    return dataset if re.fullmatch(_OWN_NAME, dataset) else "NAME"
