"""The stored form of a class source: one HDF5 file, examples contiguous and ordered by class, memory-mapped.

Layout (format version 1): dataset `examples` `(total, …)`, contiguous; `class_sizes` `(C,)` int64; `class_names`
`(C,)` UTF-8; attributes `format`, `format_version`, `fingerprint` and `provenance` (JSON: archives, checksums, …).
"""

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.sources.array import ArraySource
from metabridge.sources.base import ClassIds, content_fingerprint

__all__ = ["FORMAT_VERSION", "HDF5Source", "write_store"]

FORMAT_VERSION = 1
_FORMAT = "metabridge class source"


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
    blocks: Iterable[npt.NDArray[Any]],
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
        blocks: arrays `(any number, *example_shape)`, whose concatenation is all examples in class order.
        provenance: JSON-ready facts about where the examples came from.

    Returns:
        The fingerprint.

    Raises:
        ValueError: if names repeat, or `blocks` hold another number or shape of examples than announced.
    """
    import h5py

    target = Path(path)
    sizes = np.asarray(class_sizes, dtype=np.int64)
    if len(set(class_names)) != len(class_names):
        twice = next(name for name in class_names if list(class_names).count(name) > 1)
        raise ValueError(f"`class_names` must be distinct, {twice!r} appears twice.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    try:
        with h5py.File(temporary, "w") as file:
            shape = (int(sizes.sum()), *example_shape)
            examples = file.create_dataset("examples", shape, dtype=dtype)
            file["class_sizes"] = sizes
            file.create_dataset("class_names", data=list(class_names), dtype=h5py.string_dtype())
            written = _write_blocks(examples, blocks)
            fingerprint = content_fingerprint(class_names, sizes, tuple(example_shape), examples.dtype, written)
            file.attrs["format"] = _FORMAT
            file.attrs["format_version"] = FORMAT_VERSION
            file.attrs["fingerprint"] = fingerprint
            file.attrs["provenance"] = json.dumps(provenance, sort_keys=True)
        _check_written(temporary, fingerprint)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return fingerprint


def _write_blocks(examples: Any, blocks: Iterable[npt.NDArray[Any]]) -> Iterator[npt.NDArray[Any]]:
    """Write the blocks one after another, handing each on to the fingerprint."""
    row = 0
    for block in blocks:
        if block.shape[1:] != examples.shape[1:] or row + len(block) > len(examples):
            raise ValueError(
                f"`blocks` must hold {len(examples)} examples of shape {examples.shape[1:]}, "
                f"got a block of shape {block.shape} at row {row}."
            )
        examples[row : row + len(block)] = block
        row += len(block)
        yield block
    if row != len(examples):
        raise ValueError(f"`blocks` must hold {len(examples)} examples, got {row}.")


def _check_written(path: Path, fingerprint: str) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())  # before the move, so that the good name never stands for unwritten bytes
    found = HDF5Source(path).recompute_fingerprint()
    if found != fingerprint:
        raise OSError(
            f"{path} reads back with fingerprint {found}, {fingerprint} was written; the disk may be failing."
        )
