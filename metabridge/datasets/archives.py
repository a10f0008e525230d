"""Read the members of a zip archive or of a folder, one at a time, without ever extracting anything."""

import os
import re
import stat
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Self

__all__ = ["FolderMembers", "Members", "ZipMembers", "open_members", "unsafe_reason"]

MAX_MEMBER_BYTES = 16 << 20

_CORRUPT = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    NotImplementedError,  # zipfile's word for a compression method or zip version it does not know
)


class Members(ABC):
    """The files of one archive or folder; opened read-only, and a context manager.

    Attributes:
        path: the archive or folder.
        names: names of all files, sorted, with `/` between folders.
    """

    path: Path
    names: tuple[str, ...]

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of one member.

        Raises:
            KeyError: if `names` does not hold `name`.
            ValueError: if the member is damaged or holds another number of bytes than announced.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the archive; reading ends here."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_members(path: str | os.PathLike[str], max_member_bytes: int = MAX_MEMBER_BYTES) -> Members:
    """Open a zip archive or a folder for reading, after looking at every member's name, kind and size.

    Names and kinds are checked although nothing is ever written: an archive that tries to leave its folder is
    not what it claims to be.

    Args:
        path: a zip file, or a folder that holds the unpacked files.
        max_member_bytes: largest member accepted, uncompressed; protects from decompression bombs.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: for an unsafe, duplicate, encrypted, linked or oversized member, or a corrupt archive.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no archive or folder at {path}; check the path.")
    return FolderMembers(path, max_member_bytes) if path.is_dir() else ZipMembers(path, max_member_bytes)


def unsafe_reason(name: str) -> str | None:
    """Why a member name must not be trusted, or `None` if it is a plain relative path.

    >>> unsafe_reason("../evil"), unsafe_reason("Greek/character01/0394_01.png")
    ('leaves its folder', None)
    """
    parts = name.removesuffix("/").split("/")
    if name.startswith("/"):
        return "is an absolute path"
    if re.match("[A-Za-z]:", name):
        return "names a drive"
    if "\\" in name:
        return "holds a backslash"
    if ".." in parts:
        return "leaves its folder"
    if "\0" in name or "" in parts or "." in parts:
        return "is not a plain path"
    return None


class ZipMembers(Members):
    """The members of a zip archive; see `open_members`."""

    def __init__(self, path: Path, max_member_bytes: int) -> None:
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except (FileNotFoundError, PermissionError):
            raise
        except _CORRUPT as error:
            raise ValueError(
                f"{path} is not a readable zip archive ({error}); it is corrupt or was cut short: get it again."
            ) from None
        try:
            self._infos = self._checked(max_member_bytes)
        except BaseException:
            self._zip.close()
            raise
        self.names = tuple(sorted(self._infos))

    def _checked(self, max_member_bytes: int) -> dict[str, zipfile.ZipInfo]:
        """The files by name, if every entry, folders included, may be trusted."""
        infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            reason = _entry_reason(info, max_member_bytes)
            if reason is None and info.filename in infos:
                reason = "appears twice"
            if reason is not None:
                raise _refusal(self.path, info.orig_filename, reason)
            if not info.is_dir():
                infos[info.filename] = info
        return infos

    def read(self, name: str) -> bytes:
        """The bytes of one member; its checksum and announced size are verified."""
        info = self._infos[name]
        try:
            with self._zip.open(info) as member:
                content = member.read(info.file_size + 1)
        except _CORRUPT as error:
            raise self._damaged(name, str(error) or type(error).__name__) from None
        if len(content) != info.file_size:
            raise self._damaged(name, f"{info.file_size} bytes announced, {len(content)} found")
        return content

    def _damaged(self, name: str, reason: str) -> ValueError:
        return ValueError(f"{self.path}: member {name!r} is damaged ({reason}); get the archive again.")

    def close(self) -> None:
        """Close the archive; reading ends here."""
        self._zip.close()


def _entry_reason(info: zipfile.ZipInfo, max_member_bytes: int) -> str | None:
    """Why a zip entry must be refused, or `None`."""
    reason = unsafe_reason(info.orig_filename)
    if reason is not None:
        return reason
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archiver recorded no Unix mode
    if kind == stat.S_IFLNK:
        return "is a symbolic link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is neither a file nor a folder"
    if info.flag_bits & 0x1:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is compressed by method {info.compress_type}, only stored and deflated members are read"
    return _size_reason(info.file_size, max_member_bytes)


class FolderMembers(Members):
    """The files below a folder; see `open_members`."""

    def __init__(self, path: Path, max_member_bytes: int) -> None:
        self.path = path
        self._known = frozenset(self._walk(path, path.resolve(), max_member_bytes))
        self.names = tuple(sorted(self._known))

    def _walk(self, folder: Path, root: Path, max_member_bytes: int) -> Iterator[str]:
        """Names of the files below `folder`, if every entry may be trusted."""
        for entry in folder.iterdir():
            name = entry.relative_to(self.path).as_posix()
            reason = unsafe_reason(name) or _link_reason(entry, root)
            if reason is None and entry.is_dir():
                yield from self._walk(entry, root, max_member_bytes)
                continue
            if reason is None and not entry.is_file():
                reason = "is neither a file nor a folder"
            reason = reason or _size_reason(entry.stat().st_size, max_member_bytes)
            if reason is not None:
                raise _refusal(self.path, name, reason)
            yield name

    def read(self, name: str) -> bytes:
        """The bytes of one member, never more than its size when it is opened."""
        if name not in self._known:
            raise KeyError(name)
        with (self.path / name).open("rb") as member:
            size = os.fstat(member.fileno()).st_size
            content = member.read(size + 1)
        if len(content) != size:
            raise ValueError(f"{self.path}: {name!r} changed while it was read; leave the folder alone and try again.")
        return content

    def close(self) -> None:
        """Do nothing: no file stays open between two reads."""


def _link_reason(entry: Path, root: Path) -> str | None:
    """Why a folder's entry must be refused for being a link, or `None`."""
    if not entry.is_symlink():
        return None
    if not entry.exists():
        return "is a broken symbolic link"
    if not entry.resolve().is_relative_to(root):
        return "is a symbolic link that leaves its folder"
    if entry.is_dir():
        return "is a symbolic link to a folder, whose files would appear twice"
    return None


def _size_reason(size: int, max_member_bytes: int) -> str | None:
    """Why a member is too large, or `None`."""
    if size <= max_member_bytes:
        return None
    return f"holds {size:,} bytes uncompressed, more than the {max_member_bytes:,} allowed for one member"


def _refusal(path: Path, name: str, reason: str) -> ValueError:
    return ValueError(
        f"{path}: member {name!r} {reason}; nothing was read from it: use the archive from its official address."
    )
