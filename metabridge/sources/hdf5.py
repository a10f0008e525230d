"""The stored form of a class source: one HDF5 file, examples contiguous and ordered by class, memory-mapped.

Layout (format version 1): dataset `examples` `(total, …)`, contiguous; `class_sizes` `(C,)` int64; `class_names`
`(C,)` UTF-8; attributes `format`, `format_version`, `fingerprint` and `provenance` (JSON: archives, checksums, …).
"""

import errno
import itertools
import json
import math
import os
import shutil
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from metabridge.sources.array import ArraySource
from metabridge.sources.base import ClassIds, content_fingerprint

__all__ = ["FORMAT_VERSION", "Block", "HDF5Source", "write_store"]

FORMAT_VERSION = 1
_FORMAT = "metabridge class source"
_READ_BYTES = 1 << 24
_SPARE_BYTES = 1 << 16  # for what HDF5 writes besides the examples
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Block = npt.NDArray[Any] | tuple[npt.ArrayLike, npt.NDArray[Any]]
"""Examples `(n, …)` that come next; or rows and the examples that belong there, one of each or n of each."""


class HDF5Source(ArraySource):
    """A class source in a file written by `write_store`.

    Opening reads the table of classes; the examples are memory-mapped, so several processes share their pages,
    a fork is safe and the file may be larger than memory. A pickled source holds its path, not its examples.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not a metabridge store, or of another format version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        import h5py  # 0.1 s to import, and not needed for sources in memory

        self.path = Path(path).absolute()  # a pickled source must be found from another working folder
        if not self.path.is_file():
            raise FileNotFoundError(f"no class source at {self.path}; build it first with `metabridge build`.")
        try:
            file = h5py.File(self.path, "r")
        except OSError as error:
            raise ValueError(
                f"{self.path} is not a readable HDF5 file ({error}); delete it and build it again."
            ) from None
        with file:
            if file.attrs.get("format") != _FORMAT or file.attrs.get("format_version") != FORMAT_VERSION:
                raise ValueError(
                    f"{self.path} must be a {_FORMAT!r} of version {FORMAT_VERSION}, got "
                    f"{file.attrs.get('format')!r} version {file.attrs.get('format_version')}; build it again."
                )
            examples = file["examples"]
            offset, shape, dtype = examples.id.get_offset(), examples.shape, examples.dtype
            sizes = file["class_sizes"][()]
            names = tuple(file["class_names"].asstr()[()])
            self._stored_fingerprint = str(file.attrs["fingerprint"])
            self.provenance: dict[str, Any] = json.loads(file.attrs["provenance"])
        mapped = np.memmap(self.path, dtype=dtype, mode="r", offset=offset, shape=shape)
        super().__init__(mapped, np.cumsum(sizes) - sizes, sizes, names)

    @property
    def fingerprint(self) -> str:
        """The fingerprint recorded when the file was written; `recompute_fingerprint` checks it."""
        return self._stored_fingerprint

    def recompute_fingerprint(self) -> str:
        """The fingerprint of what the file holds now; equal to `fingerprint` unless the file was damaged."""
        return content_fingerprint(self.class_names, self.class_sizes, self.example_shape, self.dtype, self._blocks())

    def select(self, class_ids: ClassIds) -> "HDF5Selection":
        """A source of these classes alone, in this order, over the same file."""
        return HDF5Selection(self, class_ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return HDF5Source, (self.path,)


class HDF5Selection(ArraySource):
    """Some classes of an `HDF5Source`; pickles as a path and class ids."""

    def __init__(self, parent: HDF5Source, class_ids: ClassIds) -> None:
        ids = np.asarray(class_ids, dtype=np.int64)
        names = tuple(parent.class_names[i] for i in ids)
        super().__init__(parent.examples, parent.class_starts[ids], parent.class_sizes[ids], names)
        self.parent = parent
        self.class_ids = ids

    def select(self, class_ids: ClassIds) -> "HDF5Selection":
        """A source of these classes alone, in this order, over the same file."""
        return HDF5Selection(self.parent, self.class_ids[np.asarray(class_ids, dtype=np.int64)])

    def __reduce__(self) -> tuple[Any, ...]:
        return HDF5Selection, (self.parent, self.class_ids)


def write_store(
    path: str | os.PathLike[str],
    class_names: Sequence[str],
    class_sizes: npt.ArrayLike,
    example_shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    blocks: Iterable[Block],
    provenance: Mapping[str, Any],
) -> str:
    """Write a class source in bounded memory, whole or not at all.

    The file is written under a temporary name beside `path`, checked, and moved into place: an interruption
    leaves nothing under the good name, and of two writers at once either one's whole file stays.

    Args:
        path: where the store will be; its folder is made if missing.
        class_names: C distinct names.
        class_sizes: `(C,)` examples per class.
        example_shape: shape of one example.
        dtype: `uint8` or a floating dtype.
        blocks: arrays `(any number, *example_shape)`, whose concatenation is all examples in class order. Or, where
            they come in another order, pairs `(row, example)` or `(rows, examples)` that say where in that order each
            belongs; every row once.
        provenance: JSON-ready facts about where the examples came from.

    Returns:
        The fingerprint, which does not depend on the order in which examples came.

    Raises:
        ValueError: if names repeat, or `blocks` hold another number or shape of examples than announced, or a row
            twice or never.
        OSError: if the disk is full, which leaves nothing; the message says how much is needed.
    """
    target = Path(path)
    sizes = np.asarray(class_sizes, dtype=np.int64)
    if len(set(class_names)) != len(class_names):
        twice = next(name for name in class_names if list(class_names).count(name) > 1)
        raise ValueError(f"`class_names` must be distinct, {twice!r} appears twice.")
    target.parent.mkdir(parents=True, exist_ok=True)
    needed = int(sizes.sum()) * math.prod(example_shape) * np.dtype(dtype).itemsize
    if needed > shutil.disk_usage(target.parent).free:
        raise _full_disk(target, needed, os.strerror(errno.ENOSPC))
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        fingerprint = _write(temporary, class_names, sizes, tuple(example_shape), dtype, blocks, provenance)
        temporary.replace(target)
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise _full_disk(target, needed, os.strerror(error.errno)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)
    return fingerprint


def _full_disk(target: Path, needed: int, reason: str) -> OSError:
    free = shutil.disk_usage(target.parent).free
    return OSError(
        errno.ENOSPC,
        f"{target} cannot be stored ({reason}): it needs {needed:,} bytes, and {free:,} are free on the disk; nothing "
        "was kept. Free some space or choose another folder",
    )


def _write(
    path: Path,
    class_names: Sequence[str],
    sizes: npt.NDArray[np.int64],
    example_shape: tuple[int, ...],
    dtype: npt.DTypeLike,
    blocks: Iterable[Block],
    provenance: Mapping[str, Any],
) -> str:
    """Write the file and read it back; returns its fingerprint.

    The HDF5 library does not survive a full disk, so it lays out the file first, with all space reserved, and the
    examples are written without it.
    """
    import h5py

    shape = (int(sizes.sum()), *example_shape)
    record = json.dumps(provenance, sort_keys=True)
    spare = _SPARE_BYTES + 4 * (sum(len(name) + 16 for name in class_names) + len(record)) + sizes.nbytes
    _reserve(path, math.prod(shape) * np.dtype(dtype).itemsize + spare)
    with h5py.File(path, "w") as file:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        dataset = file.create_dataset("examples", shape, dtype=dtype, dcpl=layout)
        region = _Region(path, shape, dataset.dtype, dataset.id.get_offset() or 0)
        file["class_sizes"] = sizes
        file.create_dataset("class_names", data=list(class_names), dtype=h5py.string_dtype())
    _reserve(path, path.stat().st_size + spare)
    fingerprint = content_fingerprint(class_names, sizes, example_shape, region.dtype, _written(region, blocks))
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = _FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["fingerprint"] = fingerprint
        file.attrs["provenance"] = record
    _check_written(path, fingerprint)
    return fingerprint


def _reserve(path: Path, size: int) -> None:
    """Make sure that the disk takes a file of so many bytes, where the system can tell.

    Raises:
        OSError: if it does not.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("ab") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno in _FULL_DISK:
                raise


class _Region:
    """The place of the examples in a file."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> None:
        self.path, self.shape, self.dtype, self.offset = path, shape, dtype, offset
        self.row_bytes = math.prod(shape[1:]) * dtype.itemsize

    def cast(self, block: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The block in the store's dtype, if its values fit."""
        cast = np.ascontiguousarray(block, dtype=self.dtype)
        if self.dtype.kind != "f" and not np.can_cast(block.dtype, self.dtype) and not np.array_equal(cast, block):
            raise ValueError(f"`blocks` must hold values that fit {self.dtype}, got {block.dtype} values that do not.")
        return cast

    def write(self, file: BinaryIO, row: int, block: npt.NDArray[Any]) -> None:
        """Write cast examples from `row` on."""
        file.seek(self.offset + row * self.row_bytes)
        file.write(block.data)

    def read(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """First rows and examples, a bounded number of bytes at a time."""
        rows = max(1, _READ_BYTES // max(1, self.row_bytes))
        with self.path.open("rb") as file:
            file.seek(self.offset)
            for first in range(0, self.shape[0], rows):
                shape = (min(rows, self.shape[0] - first), *self.shape[1:])
                yield first, np.fromfile(file, self.dtype, math.prod(shape)).reshape(shape)


def _written(region: _Region, blocks: Iterable[Block]) -> Iterator[npt.NDArray[Any]]:
    """Write the blocks, handing them on to the fingerprint in class order."""
    given = iter(blocks)
    first = next(given, None)
    given = itertools.chain([] if first is None else [first], given)
    with region.path.open("r+b") as file:
        if not isinstance(first, tuple):
            yield from _write_blocks(file, region, given)
            return
        sums = _write_rows(file, region, given)
    for row, block in region.read():
        for position, example in enumerate(block, row):
            if zlib.crc32(example.data) != sums[position]:
                raise OSError(
                    f"{region.path} reads back differently in row {position} than was written; the disk may be failing."
                )
        yield block


def _write_blocks(file: BinaryIO, region: _Region, blocks: Iterable[Any]) -> Iterator[npt.NDArray[Any]]:
    """Write the blocks one after another, handing each on."""
    total, row = region.shape[0], 0
    for block in blocks:
        if isinstance(block, tuple):
            raise _mixed()
        if block.shape[1:] != region.shape[1:] or row + len(block) > total:
            raise ValueError(
                f"`blocks` must hold {total} examples of shape {region.shape[1:]}, "
                f"got a block of shape {block.shape} at row {row}."
            )
        cast = region.cast(block)
        region.write(file, row, cast)
        row += len(block)
        yield cast
    if row != total:
        raise ValueError(f"`blocks` must hold {total} examples, got {row}.")


def _mixed() -> TypeError:
    return TypeError("`blocks` must be all arrays or all pairs of rows and examples, got both; give every block rows.")


def _write_rows(file: BinaryIO, region: _Region, pairs: Iterable[Any]) -> npt.NDArray[np.uint32]:
    """Write examples at the rows that come with them; returns the checksum of every row."""
    total = region.shape[0]
    sums = np.zeros(total, dtype=np.uint32)
    done = np.zeros(total, dtype=bool)
    for pair in pairs:
        if not isinstance(pair, tuple):
            raise _mixed()
        rows, block = np.asarray(pair[0]), np.asarray(pair[1])
        if rows.ndim == 0:
            rows, block = rows[np.newaxis], block[np.newaxis]
        _check_rows(rows, block, region, done)
        done[rows] = True
        for row, example in zip(rows.tolist(), region.cast(block), strict=True):
            sums[row] = zlib.crc32(example.data)
            region.write(file, row, example)
    if not done.all():
        raise ValueError(
            f"`blocks` must hold {total} examples, got {done.sum()}; row {np.argmin(done)} is the first missing."
        )
    return sums


def _check_rows(rows: npt.NDArray[Any], block: npt.NDArray[Any], region: _Region, done: npt.NDArray[np.bool_]) -> None:
    if rows.dtype.kind not in "iu" or rows.ndim != 1:
        raise TypeError(f"rows of `blocks` must be one integer or `(n,)` of them, got {rows.dtype} {rows.shape}.")
    if block.shape != (len(rows), *region.shape[1:]):
        raise ValueError(
            f"`blocks` must hold examples of shape {region.shape[1:]}, got {block.shape} for {len(rows)} rows."
        )
    outside = rows[(rows < 0) | (rows >= region.shape[0])]
    if outside.size:
        raise ValueError(f"rows of `blocks` must be in [0, {region.shape[0]}), got {outside[0]}.")
    values, counts = np.unique(rows, return_counts=True)
    again = values[(counts > 1) | done[values]]
    if again.size:
        raise ValueError(f"every row must be in `blocks` once, row {again[0]} comes again.")


def _check_written(path: Path, fingerprint: str) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())  # before the move, so that the good name never stands for unwritten bytes
    found = HDF5Source(path).recompute_fingerprint()
    if found != fingerprint:
        raise OSError(
            f"{path} reads back with fingerprint {found}, {fingerprint} was written; the disk may be failing."
        )
