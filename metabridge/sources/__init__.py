"""Class sources: where the examples of each class are, in memory or in a memory-mapped file."""

from metabridge.sources.array import ArraySource
from metabridge.sources.base import ClassSource
from metabridge.sources.hdf5 import HDF5Source, write_store

__all__ = ["ArraySource", "ClassSource", "HDF5Source", "write_store"]
