"""Read the members of a zip or tar archive or of a folder, one at a time, without ever extracting anything."""

import bz2
import gzip
import io
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

__all__ = [
    "FolderMembers",
    "Members",
    "TarMembers",
    "ZipMembers",
    "open_members",
    "unsafe_reason",
]

MAX_MEMBER_BYTES = 16 << 20
MAX_TOTAL_BYTES = 4 << 30

_MAX_MEMBERS = 4_000_000
_MAX_TAR_HEADER_BYTES = 1 << 16  # a long name or its like; tarfile would read any announced number at once
_COPY_BYTES = 1 << 20
_BLOCK = 512  # of a tar archive

_CORRUPT = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    NotImplementedError,  # zipfile's word for a compression method or zip version it does not know
    RecursionError,  # tarfile's, for long names of long names
)


class Members(ABC):
    """The files of one archive or folder; opened read-only, and a context manager.

    Attributes:
        path: the archive or folder; of an archive in an archive, the outer one's path and the member's name.
        names: names of all files, sorted, with `/` between folders.
    """

    path: Path
    names: tuple[str, ...]

    @abstractmethod
    def _stored_order(self) -> Iterable[str]:
        """All names in the order in which reading costs least."""

    @abstractmethod
    def _open(self, name: str) -> tuple[BinaryIO, int]:
        """One member's bytes, possibly more or fewer than the number announced, and that number."""

    def _check_member(self, name: str) -> None:
        """Raise for a member that must not be read. An archive's members were all checked when it was opened."""
        del name

    def open(self, name: str) -> BinaryIO:
        """One member as a file to read from, for what is too large for memory; reading it checks it as `read` does.

        Raises:
            KeyError: if `names` does not hold `name`.
        """
        self._check_member(name)
        return io.BufferedReader(_CheckedFile(self, name), _COPY_BYTES)

    def read(self, name: str) -> bytes:
        """The bytes of one member.

        In a compressed tar archive this unpacks everything before the member: read several with `stream`.

        Raises:
            KeyError: if `names` does not hold `name`.
            ValueError: if the member is damaged or holds another number of bytes than announced.
        """
        self._check_member(name)
        try:
            file, size = self._open(name)
            with file:
                content = file.read(size + 1)
        except _CORRUPT as error:
            raise self._damaged(name, str(error) or type(error).__name__) from None
        if len(content) != size:
            raise self._damaged(name, f"{size} bytes announced, {len(content)} found")
        return content

    def stream(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, bytes]]:
        """The names and bytes of all members, or of these, in archive order: one pass, one member in memory.

        A folder's order is that of its sorted names.

        Raises:
            KeyError: if `self.names` does not hold one of `names`.
            ValueError: as `read` does.
        """
        known = set(self.names)
        wanted = known if names is None else set(names)
        for name in sorted(wanted - known):
            raise KeyError(name)
        return ((name, self.read(name)) for name in self._stored_order() if name in wanted)

    def _damaged(self, name: str, reason: str) -> ValueError:
        return ValueError(f"{self.path}: member {name!r} is damaged ({reason}); get the archive again.")

    @abstractmethod
    def close(self) -> None:
        """Close the archive; reading ends here."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _CheckedFile(io.RawIOBase):
    """A member that says so when it is damaged or holds another number of bytes than announced."""

    def __init__(self, members: Members, name: str) -> None:
        self._members, self._name, self._count = members, name, 0
        self._file, self._size = self._checked(members._open, name)

    def _checked(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except _CORRUPT as error:
            raise self._members._damaged(self._name, str(error) or type(error).__name__) from None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._checked(self._file.read, len(buffer))
        self._count += len(content)
        if not content and len(buffer) and self._count != self._size:
            raise self._members._damaged(self._name, f"{self._size} bytes announced, {self._count} found")
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def open_members(
    path: str | os.PathLike[str], max_member_bytes: int = MAX_MEMBER_BYTES, max_total_bytes: int = MAX_TOTAL_BYTES
) -> Members:
    """Open a zip or tar archive or a folder for reading, after looking at every member's name, kind and size.

    Names and kinds are checked although nothing is ever written: an archive that tries to leave its folder is
    not what it claims to be. A tar archive may be compressed by gzip or bzip2; looking at it unpacks it once.

    Args:
        path: an archive, recognised by its content, or a folder that holds the unpacked files.
        max_member_bytes: largest member accepted, uncompressed; protects from decompression bombs.
        max_total_bytes: the same for all members of an archive together; a folder is what it is.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: for an unsafe, duplicate, encrypted, linked or oversized member, or a corrupt archive.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no archive or folder at {path}; check the path.")
    if path.is_dir():
        return FolderMembers(path, max_member_bytes)
    return _open_archive(path.open("rb"), path, max_member_bytes, max_total_bytes)


def _open_archive(file: BinaryIO, path: Path, max_member_bytes: int, max_total_bytes: int) -> Members:
    """The members of an archive that is open already and closes with them; `path` names it in messages."""
    try:
        head = file.read(_BLOCK)
        file.seek(0)
        is_tar = head.startswith((b"\x1f\x8b", b"BZh")) or head[257:262] == b"ustar" or path.suffix == ".tar"
        kind = TarMembers if is_tar else ZipMembers
        return kind(file, path, _Limits(path, max_member_bytes, max_total_bytes))
    except BaseException:
        file.close()
        raise


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


class _Limits:
    """What the members of one archive may be, counted while they are looked at."""

    def __init__(self, path: Path, max_member_bytes: int, max_total_bytes: int) -> None:
        self._path, self._max_member_bytes, self._max_total_bytes = path, max_member_bytes, max_total_bytes
        self._members = self._bytes = 0

    def check(self, name: str, size: int, reason: str | None) -> None:
        """Refuse a member for `reason`, if there is one, or for its size.

        Raises:
            ValueError: if the member must be refused.
        """
        self._members += 1
        self._bytes += max(size, 0)
        reason = reason or _size_reason(size, self._max_member_bytes)
        if reason is None and self._bytes > self._max_total_bytes:
            reason = (
                f"brings all members together to {self._bytes:,} bytes uncompressed, more than the "
                f"{self._max_total_bytes:,} allowed for one archive"
            )
        if reason is None and self._members > _MAX_MEMBERS:
            reason = f"is one more than the {_MAX_MEMBERS:,} members allowed for one archive"
        if reason is not None:
            raise _refusal(self._path, name, reason)


class ZipMembers(Members):
    """The members of a zip archive; see `open_members`."""

    def __init__(self, file: BinaryIO, path: Path, limits: _Limits) -> None:
        self.path = path
        self._file = file
        try:
            self._zip = zipfile.ZipFile(file)
        except _CORRUPT as error:
            raise ValueError(
                f"{path} is not a readable zip archive ({error}); it is corrupt or was cut short: get it again."
            ) from None
        self._infos = self._checked(limits)
        self.names = tuple(sorted(self._infos))

    def _checked(self, limits: _Limits) -> dict[str, zipfile.ZipInfo]:
        """The files by name, if every entry, folders included, may be trusted."""
        infos: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            reason = _entry_reason(info) or ("appears twice" if info.filename in infos else None)
            limits.check(info.orig_filename, info.file_size, reason)
            if not info.is_dir():
                infos[info.filename] = info
        return infos

    def _stored_order(self) -> Iterable[str]:
        return sorted(self._infos, key=lambda name: self._infos[name].header_offset)

    def _open(self, name: str) -> tuple[BinaryIO, int]:
        info = self._infos[name]
        return self._zip.open(info), info.file_size  # type: ignore[return-value]

    def close(self) -> None:
        """Close the archive; reading ends here."""
        self._zip.close()
        self._file.close()


def _entry_reason(info: zipfile.ZipInfo) -> str | None:
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
    return None


class _Place(NamedTuple):
    """Where a member's bytes are in the uncompressed tar archive."""

    offset: int
    size: int


class TarMembers(Members):
    """The members of a tar archive, compressed by gzip or bzip2 or not; see `open_members`."""

    def __init__(self, file: BinaryIO, path: Path, limits: _Limits) -> None:
        self.path = path
        self._file = file
        self._tar = _unpacked(file)
        self._places: dict[str, _Place] = {}
        for info in self._infos():
            self._admit(info, limits)
        self.names = tuple(sorted(self._places))

    def _infos(self) -> Iterator[tarfile.TarInfo]:
        """All entries, up to the mark that ends the archive."""
        try:
            headers = _Headers(self._tar)
            tar = tarfile.TarFile(fileobj=headers, mode="r")  # type: ignore[arg-type]
            before = -1
            while (info := tar.next()) is not None:
                if not before < info.offset < tar.offset:
                    raise ValueError("its headers do not follow one another")
                yield info
                before = info.offset
                tar.members = []  # type: ignore[attr-defined]  # or it keeps all of them
                headers.left = _MAX_TAR_HEADER_BYTES
            self._tar.seek(tar.offset)
            if self._tar.read(_BLOCK) != bytes(_BLOCK):  # tarfile takes anything it cannot read for the end
                raise ValueError("it does not end as a tar archive does")
        except _CORRUPT as error:
            raise ValueError(
                f"{self.path} is not a readable tar archive ({str(error) or type(error).__name__}); it is corrupt or "
                "was cut short: get it again."
            ) from None

    def _admit(self, info: tarfile.TarInfo, limits: _Limits) -> None:
        name = info.name.removeprefix("./")  # as `tar` writes when it is given a whole folder
        if info.isdir() and name in ("", "."):
            return
        reason = unsafe_reason(name) or _tar_reason(info) or ("appears twice" if name in self._places else None)
        limits.check(info.name, info.size, reason)
        if not info.isdir():
            self._places[name] = _Place(info.offset_data, info.size)

    def _stored_order(self) -> Iterable[str]:
        return self._places  # as they were found

    def _open(self, name: str) -> tuple[BinaryIO, int]:
        place = self._places[name]
        return io.BufferedReader(_Slice(self._tar, place)), place.size

    def close(self) -> None:
        """Close the archive; reading ends here."""
        self._tar.close()
        self._file.close()


class _Headers:
    """The uncompressed tar archive as tarfile sees it, which may read a bounded number of bytes for one header."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.left = _MAX_TAR_HEADER_BYTES

    def read(self, size: int) -> bytes:
        """Read, unless that is too much."""
        if not 0 <= size <= self.left:
            raise ValueError(f"a header is longer than {_MAX_TAR_HEADER_BYTES:,} bytes")
        self.left -= size
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        """Go to an absolute position."""
        return self._file.seek(offset)

    def tell(self) -> int:
        """The absolute position."""
        return self._file.tell()


def _unpacked(file: BinaryIO) -> BinaryIO:
    """The tar archive in a file that may be compressed."""
    head = file.read(3)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file, mode="rb")  # type: ignore[return-value]
    return bz2.BZ2File(file) if head == b"BZh" else file  # type: ignore[return-value]


def _tar_reason(info: tarfile.TarInfo) -> str | None:
    """Why a tar entry must be refused for its kind, or `None`."""
    if info.issym():
        return "is a symbolic link"
    if info.islnk():
        return "is a hard link"
    if info.issparse():
        return "is a sparse file"
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        return "is neither a file nor a folder"
    return None


class _Slice(io.RawIOBase):
    """Some bytes of a file that others read too."""

    def __init__(self, file: BinaryIO, place: _Place) -> None:
        self._file, self._position, self._end = file, place.offset, place.offset + place.size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._position)
        content = self._file.read(min(len(buffer), self._end - self._position, _COPY_BYTES))
        self._position += len(content)
        buffer[: len(content)] = content
        return len(content)


class FolderMembers(Members):
    """The files below a folder; see `open_members`."""

    def __init__(self, path: Path, max_member_bytes: int) -> None:
        self.path = path
        self._max_member_bytes = max_member_bytes
        self._known = frozenset(self._walk(path, path.resolve()))
        self.names = tuple(sorted(self._known))

    def _walk(self, folder: Path, root: Path) -> Iterator[str]:
        """Names of the files below `folder`, if every entry may be trusted."""
        for entry in folder.iterdir():
            name = entry.relative_to(self.path).as_posix()
            reason = unsafe_reason(name) or _link_reason(entry, root)
            if reason is None and entry.is_dir():
                yield from self._walk(entry, root)
                continue
            if reason is None and not entry.is_file():
                reason = "is neither a file nor a folder"
            if reason is not None:
                raise _refusal(self.path, name, reason)
            yield name

    def _stored_order(self) -> Iterable[str]:
        return self.names

    def _check_member(self, name: str) -> None:
        """A folder may hold large files that nobody reads; an archive is as a whole what it claims to be."""
        if name in self._known:
            reason = _size_reason((self.path / name).stat().st_size, self._max_member_bytes)
            if reason is not None:
                raise _refusal(self.path, name, reason)

    def _open(self, name: str) -> tuple[BinaryIO, int]:
        if name not in self._known:
            raise KeyError(name)
        file = (self.path / name).open("rb")
        return file, os.fstat(file.fileno()).st_size

    def _damaged(self, name: str, reason: str) -> ValueError:
        return ValueError(
            f"{self.path}: {name!r} changed while it was read ({reason}); leave the folder alone and try again."
        )

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
