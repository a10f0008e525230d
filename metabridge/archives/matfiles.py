"""Read an array of bytes out of a MATLAB file (version 5), without trusting it.

scipy's reader takes any such file, but crashes the process on some damaged ones.
Format: MathWorks, MAT-File Format, Level 5, https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
"""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["read_bytes_field"]

_HEADER = 128
_INT8, _UINT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 2, 5, 6, 14, 15
_STRUCT_CLASS, _UINT8_CLASS = 2, 9
_MAX_BYTES = 64 << 20


class _Element(NamedTuple):
    """One piece of data with its type."""

    kind: int
    content: memoryview


def read_bytes_field(content: bytes, variable: str, field: str) -> npt.NDArray[np.uint8]:
    """The uint8 array `field` of the 1×1 struct `variable`.

    Args:
        content: the file.
        variable: name of a struct in it.
        field: name of a field of the struct.

    Returns:
        An array of the shape that MATLAB shows.

    Raises:
        ValueError: for anything else, and for a damaged file.
    """
    if len(content) < _HEADER or content[126:128] != b"IM":
        raise ValueError("it is no little-endian MATLAB file of version 5")
    for element in _elements(memoryview(content)[_HEADER:]):
        if element.kind == _COMPRESSED:
            element = next(_elements(memoryview(_unpacked(element.content))), element)
        parts = _matrix(element)
        if parts[2].content.tobytes() == variable.encode():
            return _bytes_array(_field(parts, field))
    raise ValueError(f"it has no variable {variable!r}")


def _elements(data: memoryview) -> Iterator[_Element]:
    """The elements that follow one another in `data`."""
    while len(data):
        if len(data) < 8:
            raise ValueError("it ends too early")
        kind, size = struct.unpack_from("<II", data)
        if kind >> 16:  # a small element: size, type and at most four bytes in one tag
            kind, size, start, step = kind & 0xFFFF, kind >> 16, 4, 8
            if size > 4:
                raise ValueError("a small element has more than four bytes")
        else:
            start, step = 8, 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if start + size > len(data):
            raise ValueError("it ends too early")
        yield _Element(kind, data[start : start + size])
        data = data[step:]


def _unpacked(packed: memoryview) -> bytes:
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(packed, _MAX_BYTES)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not stream.eof:
        raise ValueError(f"it ends too early, or unpacks to more than {_MAX_BYTES:,} bytes")
    return unpacked


def _matrix(element: _Element) -> list[_Element]:
    """The parts of an array: flags, dimensions, name, and what its class needs."""
    parts = list(_elements(element.content)) if element.kind == _MATRIX else []
    if [part.kind for part in parts[:3]] != [_UINT32, _INT32, _INT8] or len(parts[0].content) != 8:
        raise ValueError("it holds something that is no array")
    return parts


def _class_of(parts: list[_Element]) -> int:
    return parts[0].content[0]


def _shape(parts: list[_Element]) -> tuple[int, ...]:
    return tuple(np.frombuffer(parts[1].content[: len(parts[1].content) // 4 * 4], "<i4").tolist())


def _field(parts: list[_Element], field: str) -> list[_Element]:
    """One field of a 1×1 struct."""
    if _class_of(parts) != _STRUCT_CLASS or _shape(parts) != (1, 1) or len(parts) < 5 or len(parts[3].content) != 4:
        raise ValueError("its variable is no 1x1 struct")
    width = int.from_bytes(parts[3].content, "little")
    packed = parts[4].content.tobytes()
    if not width or len(packed) % width:
        raise ValueError("its field names are damaged")
    names = [packed[first : first + width].split(b"\0")[0] for first in range(0, len(packed), width)]
    if field.encode() not in names or len(parts) != 5 + len(names):
        raise ValueError(f"its struct has no field {field!r}")
    return _matrix(parts[5 + names.index(field.encode())])


def _bytes_array(parts: list[_Element]) -> npt.NDArray[np.uint8]:
    shape = _shape(parts)
    if _class_of(parts) != _UINT8_CLASS or len(parts) != 4 or parts[3].kind != _UINT8:
        raise ValueError("its field is no array of bytes")
    values = np.frombuffer(parts[3].content, np.uint8)
    if min(shape) < 1 or values.size != np.prod(shape, dtype=object):
        raise ValueError(f"its field has {values.size} values for shape {shape}")
    return values.reshape(shape, order="F")
