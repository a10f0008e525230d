"""Seals: the first 512 bytes of a file say what it is, how long it is, and a checksum, before anything reads the rest.

A file of metabridge is HDF5 behind such a seal, which is HDF5's user block. The HDF5 library may crash or hang on
damage; it sees only files whose seal holds.
"""

import errno
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from metabridge.storage.kinds import check_file

__all__ = ["SEAL_BYTES", "OtherKindError", "open_sealed", "write_seal"]

SEAL_BYTES = 512
"""Size of a seal: HDF5's smallest user block."""

_SEAL = struct.Struct("<24sQQQII")  # magic; the file's size; start and size of what is left out; checksums: file, seal
_PASSING = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.EACCES, errno.EPERM, errno.EINTR, errno.ESTALE)
_HDF5 = b"\x89HDF\r\n\x1a\n"


class OtherKindError(ValueError):
    """A file holds something else than was expected; it may be whole as what it is.

    Attributes:
        found: the kind it is sealed as, or `None` for HDF5 without a seal.
    """

    def __init__(self, path: Path, kind: str, found: str | None) -> None:
        holds = "HDF5 without a seal, of another version or origin" if found is None else f"{found!r}"
        super().__init__(f"{path} must hold {kind!r}, it holds {holds}.")
        self.found = found


def write_seal(path: Path, kind: str, offset: int = SEAL_BYTES, size: int = 0) -> None:
    """Seal a finished file whose first 512 bytes are free.

    Args:
        path: the file.
        kind: what it holds, in at most 12 letters.
        offset: where the bytes begin that the checksum leaves out, for what is too large to be read at every opening.
        size: how many these are.
    """
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        seal = _SEAL.pack(_magic(kind), end, offset, size, _checksum_around(file, offset, size), 0)[:-4]
        file.seek(0)
        file.write(seal + struct.pack("<I", zlib.crc32(seal)))


@contextmanager
def open_sealed(path: Path, kind: str, remedy: str) -> Iterator[BinaryIO]:
    """A sealed file, open for reading, once its seal was found to hold.

    An error that the block raises is taken for damage, because h5py reports damage as nearly anything: `KeyError`,
    `OSError`, `RuntimeError`.

    Args:
        path: the file.
        kind: what it must hold.
        remedy: what to do about a damaged file, for the message.

    Raises:
        OtherKindError: if it holds something else.
        ValueError: if it is damaged or truncated, or no regular file; the message names it.
        OSError: if it cannot be read for a reason that may pass, such as too little memory.
    """
    check_file(path)
    with path.open("rb") as file:
        try:
            _check_seal(path, file, kind)
            yield file
        except Exception as error:
            if isinstance(error, (OtherKindError, MemoryError)) or getattr(error, "errno", None) in _PASSING:
                raise  # the file may be whole
            raise ValueError(f"{path} is not a readable {kind} ({error}); {remedy}.") from None


def _magic(kind: str) -> bytes:
    return f"metabridge {kind}\n".encode().ljust(24, b"\0")


def _check_seal(path: Path, file: BinaryIO, kind: str) -> None:
    """Raise a `ValueError` for a file that is not what was sealed."""
    block = file.read(SEAL_BYTES)
    seal = block[: _SEAL.size]
    if seal.startswith(_HDF5):
        raise OtherKindError(path, kind, None)
    if len(block) < SEAL_BYTES or not seal.startswith(b"metabridge "):
        raise ValueError("it does not begin as one")
    magic, end, offset, size, checksum, own_checksum = _SEAL.unpack(seal)
    if zlib.crc32(seal[:-4]) != own_checksum or any(
        block[_SEAL.size :]
    ):  # else a damaged size might have the whole file read
        raise ValueError("its seal is damaged")
    if magic != _magic(kind):
        raise OtherKindError(path, kind, magic.decode().removeprefix("metabridge ").partition("\n")[0])
    present = os.fstat(file.fileno()).st_size
    if present != end:
        raise ValueError(f"it has {present:,} bytes, {end:,} were written")
    if _checksum_around(file, offset, size) != checksum:
        raise ValueError("its content is damaged")


def _checksum_around(file: BinaryIO, offset: int, size: int) -> int:
    """CRC-32 of all but the seal and `size` bytes from `offset` on."""
    file.seek(SEAL_BYTES)
    before = zlib.crc32(file.read(offset - SEAL_BYTES))
    file.seek(offset + size)
    return zlib.crc32(file.read(), before)
