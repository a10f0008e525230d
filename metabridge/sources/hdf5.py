"""The stored form of a class source: one HDF5 file, examples contiguous and ordered by class, memory-mapped.

Layout (format version 2): dataset `examples` `(total, …)`, contiguous; `class_sizes` `(C,)` int64; `class_names`
`(C,)` UTF-8; `class_digests` `(C, 16)` uint8, contiguous, BLAKE2b of each class's examples; attributes `format`,
`format_version`, `fingerprint` and `provenance` (JSON: archives, checksums, …).

The first 512 bytes are a seal, whose checksum is of all but the examples: some 100 kB for every thousand classes.
"""

import itertools
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from metabridge.checks import check_path
from metabridge.digests import DIGEST_BYTES
from metabridge.sources.array import ArraySource
from metabridge.sources.base import ClassIds, Digests, content_fingerprint, digest_classes
from metabridge.sources.tables import check_classes, check_layout, integers_of, positions_of
from metabridge.storage.atomic import is_full_disk, replacing
from metabridge.storage.seal import SEAL_BYTES, OtherKindError, open_sealed, write_seal

__all__ = ["FORMAT_VERSION", "Block", "FormatVersionError", "HDF5Source", "write_store"]

FORMAT_VERSION = 2
_FORMAT = "metabridge class source"
_KIND = "class source"
_READ_BYTES = 1 << 24
_SPARE_BYTES = 1 << 16  # for what HDF5 writes besides the examples

Block = npt.NDArray[Any] | tuple[npt.ArrayLike, npt.NDArray[Any]]
"""Examples `(n, …)` that come next; or rows and the examples that belong there, one of each or n of each."""


class FormatVersionError(ValueError):
    """A file is no store, or one of another format version; it may be whole as what it is."""


class HDF5Source(ArraySource):
    """A class source in a file written by `write_store`.

    Opening reads the table of classes; the examples are memory-mapped, so several processes share their pages,
    a fork is safe and the file may be larger than memory. A pickled source holds its path and its fingerprint, not
    its examples; unpickling it is an error once another store is at that path.

    The examples of a class are compared with their stored digest when a process reads the class for the first time,
    so no damaged example is used. This reads the whole class, some 700 MB a second once it is in memory.
    `check_examples=False` leaves it out, for classes so large that the first episodes would take too long.

    The file must stay as it is while it is open; replace it by another file, as `write_store` does. The system ends a
    process (signal SIGBUS) that reads beyond the end of a file which was cut short meanwhile.

    Args:
        path: the file.
        check_examples: compare the examples of each class with their stored digest when the class is first read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or truncated; a `FormatVersionError` if it is HDF5 of another origin or
            format version.
        OSError: if it cannot be read for a reason that may pass, such as too little memory.
    """

    def __init__(self, path: str | os.PathLike[str], check_examples: bool = True) -> None:
        import h5py  # 0.1 s to import, and not needed for sources in memory

        self.check_examples = check_examples
        self.path = check_path(path, "path").absolute()  # a pickled source must be found from another working folder
        if not self.path.is_file():
            raise FileNotFoundError(f"no class source at {self.path}; build it first with `metabridge build`.")
        # One open file for all: another store may take its name in the meantime. HDF5's own lock, which fails where
        # a writer or the file system forbids it, is not needed for a file that never changes.
        try:
            with open_sealed(self.path, _KIND, "delete it and build it again") as raw:
                kind, version = self._open(h5py, raw)
        except OtherKindError as error:
            raise FormatVersionError(
                f"{error} Open it as what it is."
                if error.found
                else f"{self.path} is HDF5, but no store of version {FORMAT_VERSION}: build an older store again; of "
                "arrays of your own make one with save_source(LabelledSource(file['images'], file['labels']), "
                "'store.h5')."
            ) from None
        if (kind, version) != (_FORMAT, FORMAT_VERSION):
            raise FormatVersionError(
                f"{self.path} must be a {_FORMAT!r} of version {FORMAT_VERSION}, got {kind!r} version {version}; "
                "build it again."
            )

    def _open(self, h5py: ModuleType, raw: BinaryIO) -> tuple[Any, Any]:
        """Take over the table and map the examples, if the format is right; returns format and version found."""
        with h5py.File(raw, "r") as file:
            found = file.attrs.get("format"), file.attrs.get("format_version")
            if found != (_FORMAT, FORMAT_VERSION):
                return found
            examples, self._class_digests = _mapped(raw, file["examples"]), _mapped(raw, file["class_digests"])
            stored_sizes, stored_names = file["class_sizes"], file["class_names"]
            _check_table(examples, self._class_digests, stored_sizes, stored_names)
            sizes, names = stored_sizes[()], stored_names.asstr()[()]
            self._stored_fingerprint = str(file.attrs["fingerprint"])
            self.provenance: dict[str, Any] = dict(json.loads(file.attrs["provenance"]))
        if sizes.min() < 1 or sizes.sum() != len(examples):
            raise ValueError(f"its class sizes do not add up to its {len(examples)} examples")
        super().__init__(examples, np.cumsum(sizes) - sizes, sizes, tuple(names))
        self._is_unread = np.full(len(sizes), self.check_examples)
        return found

    @property
    def fingerprint(self) -> str:
        """The fingerprint recorded when the file was written; `recompute_fingerprint` checks it."""
        return self._stored_fingerprint

    @property
    def class_digests(self) -> Digests:
        """`(C, 16)` uint8: one digest per class, as recorded when the file was written."""
        return self._class_digests

    def recompute_fingerprint(self) -> str:
        """The fingerprint of what the file holds now; equal to `fingerprint` unless the file was damaged."""
        found = self._fingerprint_with(self._digest_classes())
        # The recorded digests are content too: selections have their fingerprints from them.
        return self._fingerprint_with(self.class_digests) if found == self.fingerprint else found

    def _admit(self, class_ids: npt.NDArray[np.int64]) -> None:
        """Compare the examples of the classes that were not read before with their digests.

        Raises:
            ValueError: if they differ.
        """
        unread = self._is_unread[class_ids]
        if not unread.any():
            return
        for class_id in np.unique(np.asarray(class_ids)[unread]).tolist():
            digest = digest_classes(self.class_sizes[[class_id]], self.dtype, self._blocks([class_id]))
            if not np.array_equal(digest[0], self.class_digests[class_id]):
                raise ValueError(
                    f"{self.path} is damaged: the examples of class {self.class_names[class_id]!r} are not those that "
                    "were written; delete the file and build it again."
                )
            self._is_unread[class_id] = False

    def select(self, class_ids: ClassIds) -> "HDF5Selection":
        """A source of these classes alone, in this order, over the same file."""
        return HDF5Selection(self, class_ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (self.path, self.fingerprint, self.check_examples)


def _open_again(path: Path, fingerprint: str, check_examples: bool) -> HDF5Source:
    """The store that was pickled, where it is still at its path.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if there is another store by now.
    """
    source = HDF5Source(path, check_examples)
    if source.fingerprint != fingerprint:
        raise ValueError(
            f"{path} must hold the store that was pickled, of fingerprint {fingerprint}, it holds another one, of "
            f"{source.fingerprint}; put the former back, or make the meta-dataset anew from this one."
        )
    return source


def _mapped(raw: BinaryIO, dataset: Any) -> npt.NDArray[Any]:
    offset = dataset.id.get_offset()
    if offset is None or offset < SEAL_BYTES:  # HDF5 adds the user block to its "nowhere", which is -1
        raise ValueError(f"its {dataset.name.strip('/')} are not stored in one piece")
    return np.memmap(raw, dtype=dataset.dtype, mode="r", offset=offset, shape=dataset.shape)


def _check_table(examples: npt.NDArray[Any], digests: npt.NDArray[Any], sizes: Any, names: Any) -> None:
    """Before it is read: damaged shapes may ask for more memory than there is."""
    count = len(digests)
    shapes = digests.shape[1:], sizes.shape, names.shape
    if shapes != ((DIGEST_BYTES,), (count,), (count,)) or digests.dtype != np.uint8 or sizes.dtype.kind != "i":
        raise ValueError("its table of classes does not fit together")
    if examples.dtype.kind not in "uf":
        raise ValueError(f"its examples are {examples.dtype}")


class HDF5Selection(ArraySource):
    """Some classes of an `HDF5Source`; pickles as a path and class ids."""

    def __init__(self, parent: HDF5Source, class_ids: ClassIds) -> None:
        ids = positions_of(class_ids, len(parent))
        names = tuple(parent.class_names[i] for i in ids)
        super().__init__(parent.examples, parent.class_starts[ids], parent.class_sizes[ids], names)
        self.parent = parent
        self.class_ids = ids

    @property
    def class_digests(self) -> Digests:
        """`(C, 16)` uint8: one digest per class, as recorded in the file."""
        return self.parent.class_digests[self.class_ids]

    def _admit(self, class_ids: npt.NDArray[np.int64]) -> None:
        self.parent._admit(self.class_ids[class_ids])

    def select(self, class_ids: ClassIds) -> "HDF5Selection":
        """A source of these classes alone, in this order, over the same file."""
        return HDF5Selection(self.parent, self.class_ids[positions_of(class_ids, len(self))])

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
    leaves nothing under the good name, and of two writers at once either one's whole file stays. What a killed writer
    left under a temporary name is removed by the next one for the same `path`, where the file system has locks.

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
        TypeError: if `dtype` is none of these, `class_sizes` are no integers, or `blocks` are neither all arrays nor
            all pairs.
        ValueError: if names repeat, a class is empty, or `blocks` hold another number or shape of examples than
            announced, or a row twice or never.
        OSError: if the disk is full, which leaves nothing; the message says how much is needed.
    """
    target = Path(path)
    sizes = integers_of(class_sizes, "class_sizes")
    check_classes(class_names, sizes, np.dtype(dtype))
    needed = int(sizes.sum()) * math.prod(example_shape) * np.dtype(dtype).itemsize
    if not needed:
        raise ValueError(f"`example_shape` must have no axis of length 0, got {tuple(example_shape)}.")
    check_layout(tuple(example_shape), np.dtype(dtype))
    with replacing(target, needed) as temporary:
        return _write(temporary, class_names, sizes, tuple(example_shape), dtype, blocks, provenance)


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
    examples are written without it. It gets open files, not the path, because it would ask for a lock of its own.
    """
    import h5py

    shape = (int(sizes.sum()), *example_shape)
    record = json.dumps(provenance, sort_keys=True)
    spare = _SPARE_BYTES + 4 * (sum(len(name) + 16 for name in class_names) + len(record)) + sizes.nbytes
    spare += DIGEST_BYTES * len(sizes)
    _reserve(path, math.prod(shape) * np.dtype(dtype).itemsize + spare)
    with path.open("w+b") as raw, h5py.File(raw, "w", userblock_size=SEAL_BYTES) as file:
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        dataset = file.create_dataset("examples", shape, dtype=dtype, dcpl=layout)
        region = _Region(path, shape, dataset.dtype, dataset.id.get_offset() or 0)
        digests = file.create_dataset("class_digests", (len(sizes), DIGEST_BYTES), dtype=np.uint8, dcpl=layout)
        digests_offset = digests.id.get_offset()
        file["class_sizes"] = sizes
        file.create_dataset("class_names", data=list(class_names), dtype=h5py.string_dtype())
    _reserve(path, path.stat().st_size + spare)
    class_digests = digest_classes(sizes, region.dtype, _written(region, blocks))
    fingerprint = content_fingerprint(class_names, sizes, example_shape, region.dtype, class_digests)
    with path.open("r+b") as raw:
        raw.seek(digests_offset)
        raw.write(class_digests.data)
    with path.open("r+b") as raw, h5py.File(raw, "r+") as file:
        file.attrs["format"] = _FORMAT
        file.attrs["format_version"] = FORMAT_VERSION
        file.attrs["fingerprint"] = fingerprint
        file.attrs["provenance"] = record
    write_seal(path, _KIND, region.offset, math.prod(shape) * region.dtype.itemsize)
    _check_written(path, fingerprint, read_again=not region.is_read_back)
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
            if is_full_disk(error):
                raise


class _Region:
    """The place of the examples in a file."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> None:
        self.path, self.shape, self.dtype, self.offset = path, shape, dtype, offset
        self.row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self.is_read_back = False

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
        self.is_read_back = True
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


def _check_written(path: Path, fingerprint: str, read_again: bool) -> None:
    source = HDF5Source(path)
    found = source.recompute_fingerprint() if read_again else source.select(range(len(source))).fingerprint
    if found != fingerprint:
        raise OSError(
            f"{path} reads back with fingerprint {found}, {fingerprint} was written; the disk may be failing."
        )
