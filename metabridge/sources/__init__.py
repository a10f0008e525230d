"""Class sources: where the examples of each class are, in memory, in files, or in another library's dataset."""

from metabridge.sources.array import ArraySource
from metabridge.sources.base import ClassSource
from metabridge.sources.classwise import ClassDatasetSource
from metabridge.sources.copies import in_memory, save_source
from metabridge.sources.folder import ImageFolderSource
from metabridge.sources.hdf5 import HDF5Source, write_store
from metabridge.sources.labelled import LabelledSource
from metabridge.sources.splits import split_classes
from metabridge.sources.views import filter_classes, rename_classes, union

__all__ = [
    "ArraySource",
    "ClassDatasetSource",
    "ClassSource",
    "HDF5Source",
    "ImageFolderSource",
    "LabelledSource",
    "filter_classes",
    "in_memory",
    "rename_classes",
    "save_source",
    "split_classes",
    "union",
    "write_store",
]
