"""Sources read once and kept: in memory, or in a file that is memory-mapped."""

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.checks import check_path
from metabridge.sources.array import ArraySource
from metabridge.sources.base import ClassSource, check_source
from metabridge.sources.hdf5 import HDF5Source, write_store

__all__ = ["in_memory", "save_source"]

_BLOCK_BYTES = 1 << 24


def in_memory(source: ClassSource, progress: bool = True) -> ArraySource:
    """A copy of any source in memory, class by class: an image folder is decoded once and not at every access.

    Args:
        source: any source.
        progress: show a bar on standard error.
    """
    check_source(source)
    sizes = np.asarray(source.class_sizes, dtype=np.int64)
    examples = np.empty((int(sizes.sum()), *source.example_shape), dtype=source.dtype)
    row = 0
    for block in _blocks(source, progress):
        examples[row : row + len(block)] = block
        row += len(block)
    return ArraySource(examples, np.cumsum(sizes) - sizes, sizes, source.class_names)


def save_source(
    source: ClassSource,
    path: str | os.PathLike[str],
    provenance: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> HDF5Source:
    """Write any source into a store that is read through a memory map, in bounded memory, and open it.

    Args:
        source: any source.
        path: where the store will be; a file there is replaced once the new one is whole.
        provenance: JSON-ready facts about where the examples came from, kept in the file.
        progress: show a bar on standard error.
    """
    check_source(source)
    check_path(path, "path")
    shape, dtype = source.example_shape, source.dtype
    blocks = _blocks(source, progress)
    write_store(path, source.class_names, source.class_sizes, shape, dtype, blocks, provenance or {})
    return HDF5Source(path)


def _blocks(source: ClassSource, progress: bool) -> Iterator[npt.NDArray[Any]]:
    """All examples in class order, a bounded number of bytes at a time."""
    from tqdm import tqdm

    example_bytes = max(1, int(np.prod(source.example_shape)) * source.dtype.itemsize)
    rows = max(1, _BLOCK_BYTES // example_bytes)
    sizes = source.class_sizes.tolist()
    with tqdm(total=sum(sizes), desc="reading", unit="example", disable=not progress, file=sys.stderr) as bar:
        for class_id, size in enumerate(sizes):
            for first in range(0, size, rows):
                examples = np.arange(first, min(first + rows, size))
                yield source.gather(np.full(len(examples), class_id), examples)
                bar.update(len(examples))
