"""A mapping name → array in one sealed file, written whole or not at all."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.storage.atomic import replacing
from metabridge.storage.seal import SEAL_BYTES, open_sealed, write_seal

__all__ = ["read_arrays", "write_arrays"]


def write_arrays(path: str | os.PathLike[str], kind: str, arrays: Mapping[str, npt.ArrayLike]) -> None:
    """Write arrays to an HDF5 file, one dataset per name, behind a seal.

    The file is made in memory, since the HDF5 library does not survive a full disk, and moved into place when it is
    whole: an error or an interruption leaves the old file, or none.

    Args:
        path: where the file will be; its folder is made if missing.
        kind: what the file holds, in at most 12 letters; `read_arrays` asks for it.
        arrays: name → array of numbers; any name but the empty one.

    Raises:
        TypeError: if an array holds anything but numbers and booleans.
        ValueError: for an empty name.
        OSError: if the disk is full, which leaves nothing; the message says how much is needed.
    """
    image = _image(arrays)
    with replacing(Path(path), len(image)) as temporary:
        temporary.write_bytes(image)
        write_seal(temporary, kind)


def read_arrays(path: str | os.PathLike[str], kind: str) -> dict[str, npt.NDArray[Any]]:
    """Read a file of `write_arrays`: name → array, in the same order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or truncated, or holds something else; the message names it.
        OSError: if it cannot be read for a reason that may pass, such as too little memory.
    """
    import h5py  # 0.1 s to import

    with (
        open_sealed(Path(path), kind, "take another copy, or write it again") as raw,
        h5py.File(raw, "r", track_order=True) as file,
    ):
        return {_name_of(link): np.asarray(array[()], dtype=array.dtype) for link, array in file.items()}


def _image(arrays: Mapping[str, npt.ArrayLike]) -> memoryview:
    """The bytes of the HDF5 file, with room for the seal."""
    import h5py

    image = io.BytesIO()
    with h5py.File(image, "w", userblock_size=SEAL_BYTES, track_order=True) as file:
        for name, values in arrays.items():
            array = np.asarray(values)
            if array.dtype.kind not in "biufc":
                raise TypeError(f"`arrays[{name!r}]` must hold numbers, got {array.dtype}; convert it first.")
            if not name:
                raise ValueError("`arrays` must have names, got the empty one; give every array a name.")
            file[_link_of(name)] = array
    return image.getbuffer()


def _link_of(name: str) -> str:
    """A name as HDF5 takes it: a slash would make a group, and a dot alone is the group itself."""
    link = name.replace("%", "%25").replace("/", "%2F")
    return "%2E" if link == "." else link


def _name_of(link: str) -> str:
    return link.replace("%2E", ".").replace("%2F", "/").replace("%25", "%")
