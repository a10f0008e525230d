"""Read the members of a zip or tar archive or of a folder, one at a time, without ever extracting anything.

Archives are verified before they are opened, so their bytes are the official ones; unpacked folders are whatever a user
has. Of both, sizes are limited before anything is read.
"""

import os
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Self

from metabridge.storage.kinds import check_file

__all__ = ["FolderMembers", "Members", "TarMembers", "ZipMembers", "open_members"]

MAX_MEMBER_BYTES = 16 << 20
MAX_TOTAL_BYTES = 4 << 30
_BLOCK_BYTES = 1 << 20

_CORRUPT = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, OSError)


class Members(ABC):
    """The files of one archive or folder; opened read-only, and a context manager.

    Attributes:
        path: the archive or folder.
        names: names of all files, sorted, with `/` between folders.
    """

    path: Path
    names: tuple[str, ...]

    @abstractmethod
    def _stored_order(self) -> Iterable[str]:
        """All names in the order in which reading costs least."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """One member as a file to read from, for a member that is too large for memory.

        Raises:
            KeyError: if `names` does not hold `name`.
            ValueError: if the member of a folder is too large.
        """

    def read(self, name: str) -> bytes:
        """The bytes of one member.

        In a compressed tar archive this unpacks everything before the member: read several with `stream`.

        Raises:
            KeyError: if `names` does not hold `name`.
            ValueError: if the member is damaged or, in a folder, too large.
        """
        try:
            with self.open(name) as file:
                return file.read()
        except _CORRUPT as error:
            reason = str(error) or type(error).__name__
            raise ValueError(f"{self.path}: member {name!r} is damaged ({reason}); get the archive again.") from None

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

    @abstractmethod
    def close(self) -> None:
        """Close the archive; reading ends here."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_members(
    path: str | os.PathLike[str], max_member_bytes: int = MAX_MEMBER_BYTES, max_total_bytes: int = MAX_TOTAL_BYTES
) -> Members:
    """Open a zip or tar archive or a folder for reading, after looking at the size of every member.

    A tar archive may be compressed; looking at it unpacks it once.

    Args:
        path: an archive, recognised by its content, or a folder that holds the unpacked files.
        max_member_bytes: largest member accepted, uncompressed; of a folder, when it is read.
        max_total_bytes: the same for all members of an archive together, or all files of a folder that are read.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: for a corrupt archive, a device or named pipe, an oversized member, or an entry of a folder that is
            neither file nor folder or leads out of it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no archive or folder at {path}; check the path.")
    if path.is_dir():
        return FolderMembers(path, max_member_bytes, max_total_bytes)
    check_file(path)
    with path.open("rb") as file:
        kind = ZipMembers if file.read(2) == b"PK" else TarMembers
    limits = _Limits(path, max_member_bytes, max_total_bytes)
    try:
        members = kind(path)
    except _CORRUPT as error:
        reason = (
            str(error).partition(":\n")[0] or type(error).__name__
        )  # tarfile goes on with a line for each compression
        raise ValueError(
            f"{path} is not a readable zip or tar archive ({reason}); it is corrupt or was cut short: get it again."
        ) from None
    try:
        for name, size in members.sizes.items():
            limits.admit(name, size)
    except ValueError:
        members.close()
        raise
    return members


class _Limits:
    """How large the members of one archive or folder may be, alone and together."""

    def __init__(self, path: Path, max_member_bytes: int, max_total_bytes: int) -> None:
        self._path, self._max_member_bytes, self._max_total_bytes = path, max_member_bytes, max_total_bytes
        self._sizes: dict[str, int] = {}
        self._total = 0

    def admit(self, name: str, size: int) -> None:
        """Raise `ValueError` if the member, or all so far together, have more bytes than allowed."""
        self._total += size - self._sizes.get(name, 0)
        self._sizes[name] = size
        if size > self._max_member_bytes:
            allowed = f"{self._max_member_bytes:,} allowed for one member"
            raise _refusal(self._path, name, f"holds {size:,} bytes uncompressed, more than the {allowed}")
        if self._total > self._max_total_bytes:
            allowed = f"{self._max_total_bytes:,} allowed for all together"
            raise _refusal(self._path, name, f"brings the members to {self._total:,} bytes, more than the {allowed}")


class ZipMembers(Members):
    """The members of a zip archive; see `open_members`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = zipfile.ZipFile(path)
        self._infos = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}
        self.names = tuple(sorted(self._infos))
        self.sizes = {name: info.file_size for name, info in self._infos.items()}

    def _stored_order(self) -> Iterable[str]:
        return sorted(self._infos, key=lambda name: self._infos[name].header_offset)

    def open(self, name: str) -> BinaryIO:
        """One member as a file to read from; see `Members.open`."""
        return self._zip.open(self._infos[name])  # type: ignore[return-value]

    def close(self) -> None:
        """Close the archive; reading ends here."""
        self._zip.close()


class TarMembers(Members):
    """The regular files of a tar archive, compressed or not; see `open_members`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._tar = tarfile.open(path)  # noqa: SIM115  # closed by `close`
        try:
            # `tar` writes names from "./" on when it is given a whole folder
            self._infos = {info.name.removeprefix("./"): info for info in self._tar if info.isreg()}
            self._read_to_the_end()
        except BaseException:
            self._tar.close()
            raise
        self.names = tuple(sorted(self._infos))
        self.sizes = {name: info.size for name, info in self._infos.items()}

    def _read_to_the_end(self) -> None:
        """Behind the last member a compressed file has the checksum of its content, which is looked at there alone."""
        file = self._tar.fileobj
        while file is not None and file.read(_BLOCK_BYTES):
            pass

    def _stored_order(self) -> Iterable[str]:
        return self._infos  # as they were found

    def open(self, name: str) -> BinaryIO:
        """One member as a file to read from; see `Members.open`."""
        return self._tar.extractfile(self._infos[name])  # type: ignore[return-value]  # of a regular file never None

    def close(self) -> None:
        """Close the archive; reading ends here."""
        self._tar.close()


class FolderMembers(Members):
    """The files below a folder; see `open_members`."""

    def __init__(self, path: Path, max_member_bytes: int, max_total_bytes: int) -> None:
        self.path = path
        self._limits = _Limits(path, max_member_bytes, max_total_bytes)
        self._known = frozenset(self._walk(path, path.resolve()))
        self.names = tuple(sorted(self._known))

    def _walk(self, folder: Path, root: Path) -> Iterator[str]:
        """Names of the files below `folder`, if every entry may be trusted."""
        for entry in folder.iterdir():
            name = entry.relative_to(self.path).as_posix()
            reason = _link_reason(entry, root)
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

    def open(self, name: str) -> BinaryIO:
        """One member as a file to read from; see `Members.open`. A large file beside it does no harm."""
        if name not in self._known:
            raise KeyError(name)
        file = (self.path / name).open("rb")
        try:
            self._limits.admit(name, os.fstat(file.fileno()).st_size)
        except ValueError:
            file.close()
            raise
        return file

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


def _refusal(path: Path, name: str, reason: str) -> ValueError:
    return ValueError(f"{path}: member {name!r} {reason}; nothing of it was read: use the official files.")
