"""Official archives: what identifies one, and how it gets onto this machine, verified."""

import hashlib
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from metabridge.archives.downloaders import (
    DRIVE,
    HTTPDownloader,
    SourceError,
    WrongContentError,
    page_words,
)
from metabridge.storage.atomic import is_full_disk, synchronise, try_lock
from metabridge.storage.kinds import check_file, check_target

__all__ = ["Archive", "check_place", "fetch", "verify"]


@dataclass(frozen=True)
class Archive:
    """An official archive.

    Attributes:
        name: file name.
        urls: sources, the preferred one first: `http:` and `https:` addresses, and `"gdrive:<file id>"` for a
            file on Google Drive.
        sha256: hexadecimal checksum; this, not the name, identifies the file.
        size: bytes, or `None` if unknown.
        md5: hexadecimal checksum where it is the only one published, which tells a damaged file from a whole one.
        about: bytes, where they are known roughly, for the question whether the disk has room; a source that sends
            more than twice as many is refused.

    Raises:
        ValueError: without a checksum; a size alone identifies nothing.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None = None
    size: int | None = None
    md5: str | None = None
    about: int = 0

    def __post_init__(self) -> None:
        if not (self.sha256 or self.md5):
            raise ValueError(f"`sha256` or `md5` must be given for {self.name}, got neither; a size alone is no check.")

    @property
    def checksum(self) -> str:
        """The strongest checksum known, as `"sha256:…"` or `"md5:…"`."""
        return f"sha256:{self.sha256}" if self.sha256 else f"md5:{self.md5}"

    @property
    def addresses(self) -> tuple[str, ...]:
        """The sources as addresses that a browser opens."""
        return tuple(_browser_address(url) for url in self.urls)

    def __str__(self) -> str:
        size = "" if self.size is None else f"{self.size:,} bytes, "
        return f"{self.name} ({size}{self.checksum.replace(':', ' ')})"


def _browser_address(url: str) -> str:
    if url.startswith(DRIVE):
        return f"https://drive.google.com/file/d/{url.removeprefix(DRIVE)}/view"
    return url


def verify(path: str | os.PathLike[str], archive: Archive) -> None:
    """Check a file's size and checksum, reading it in blocks and only reading it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is another file than `archive`, or no regular file.
    """
    path = Path(path)
    check_file(path)
    difference = _difference(path, archive)
    if difference is not None:
        raise ValueError(
            f"{path} is not the official {archive}: {difference}. It was left as it is; it may have been cut "
            f"short or be another edition: get it again from {' or '.join(archive.addresses)}."
        )


def _difference(path: Path, archive: Archive) -> str | None:
    """How a file differs from the official one, or `None` if it is the same."""
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        return f"it holds {size:,} bytes, expected {archive.size:,}"
    for algorithm, expected in (("sha256", archive.sha256), ("md5", archive.md5)):
        if not expected:
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, partial(hashlib.new, algorithm, usedforsecurity=False)).hexdigest()
        if found != expected.lower():
            return f"its {algorithm} is {found}, expected {expected}"
    return None


def fetch(archive: Archive, folder: str | os.PathLike[str], progress: bool = True) -> Path:
    """The verified archive in `folder`, downloaded unless it is there already.

    The sources are tried in order. A download is written beside its target under a hidden name and moved into place
    when its checksum is right; a file of the same name with another checksum is then replaced. What an interruption
    leaves under the hidden name is continued by whatever source delivers next, and if its checksum is then wrong
    it is downloaded anew once. Of several processes that fetch one archive at once, one downloads and the others wait.

    Args:
        archive: which archive.
        folder: the downloads folder, made if missing.
        progress: show a bar on standard error.

    Returns:
        `folder / archive.name`.

    Raises:
        ConnectionError: if no source delivered a file.
        FileExistsError: if a folder, a link, a named pipe or a device is where the file or its partial download
            belongs, and it is no link to the verified archive.
        ValueError: if one delivered another file, by size or checksum, and no other the right one.
        OSError: if the disk has not enough space; the message says how much is needed.
    """
    target = Path(folder) / archive.name
    target.parent.mkdir(parents=True, exist_ok=True)
    seen, difference = _look(target, archive)
    if seen and difference is None:
        _remove_partial(target)
        return target
    check_place(archive, folder)
    check_target(target)
    answers = [f"{target}, already there: {difference}"] if seen else []
    wrong_content = False
    with _partial_file(target, progress) as part:
        if _identity(target) != seen and _look(target, archive)[1] is None:
            return target  # another process was faster
        for url in archive.urls:
            try:
                with _told_of_a_full_disk(archive, part):
                    _deliver(url, archive, part, progress)
                    part.replace(target)
                return target
            except SourceError as error:
                wrong_content |= isinstance(error, WrongContentError)
                answers.append(f"{url}: {error}")
    raise (ValueError if wrong_content else ConnectionError)(_failure(archive, target, part, answers))


def check_place(archive: Archive, folder: str | os.PathLike[str]) -> None:
    """Check that a download can be put into `folder`, before it is begun; nothing is opened.

    A link to a file may lead to the archive, which `fetch` finds out.

    Raises:
        FileExistsError: if a folder, a named pipe, a device or a link to one of these or to nothing is in its place, or
            anything but a file in the place of a partial download.
    """
    target = Path(folder) / archive.name
    if not target.is_file():
        check_target(target)
    check_target(_partial_path(target))


def _identity(path: Path) -> tuple[int, ...]:
    """Inode, size and time of a file, which tell it from the one that replaces it; empty if there is none."""
    if not path.is_file():
        return ()
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _look(target: Path, archive: Archive) -> tuple[tuple[int, ...], str | None]:
    """The identity of what is at `target` and how it differs from the official archive."""
    identity = _identity(target)
    return identity, _difference(target, archive) if identity else "there is no such file"


def _deliver(url: str, archive: Archive, part: Path, progress: bool) -> None:
    """Complete the partial file from one source and verify it."""
    while True:
        held = part.stat().st_size
        if archive.size is not None and held > archive.size:
            os.truncate(part, 0)
            held = 0
        if archive.size is None or held != archive.size:
            _download(url, archive, part, progress)
        difference = _difference(part, archive)
        if difference is None:
            synchronise(part)  # before the move, so that the good name never stands for unwritten bytes
            return
        difference += _web_page_hint(part)
        os.truncate(part, 0)
        if held == 0:
            raise WrongContentError(difference)


def _download(url: str, archive: Archive, part: Path, progress: bool) -> None:
    try:
        HTTPDownloader(archive.size, progress, 2 * archive.about or None)(url, part)
    except ValueError as error:  # an address that is none
        raise SourceError(str(error)) from None


@contextmanager
def _told_of_a_full_disk(archive: Archive, part: Path) -> Iterator[None]:
    """Some systems say so only when written bytes are to be on the disk, or the file to have its name."""
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise OSError(
            error.errno,
            f"the disk of {part.parent} is full: {archive.name} needs {_needed(archive, part)}, free some or "
            f"choose another `root`; {part.stat().st_size:,} bytes are kept in {part}, the next try goes on "
            "from there",
        ) from None


def _needed(archive: Archive, part: Path) -> str:
    missing = 0 if archive.size is None else archive.size - part.stat().st_size
    return f"{missing:,} bytes more" if missing else "more"


@contextmanager
def _partial_file(target: Path, progress: bool) -> Iterator[Path]:
    """The hidden partial download beside `target`, this process's alone until the block ends.

    Where the file system has no locks it is under a name of its own, and not kept.
    """
    path = _partial_path(target)
    while True:
        file = path.open("ab")
        shared = _lock(file, progress, target)
        if not shared:
            file.close()
            path.unlink(missing_ok=True)
            path = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
            file = path.open("ab")
        if _is_at(file, path):  # or else its last owner moved or removed it while we waited
            break
        file.close()
    with file:
        try:
            yield path
        finally:
            if _is_at(file, path) and (not shared or path.stat().st_size == 0):
                path.unlink()


def _partial_path(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _remove_partial(target: Path) -> None:
    """Remove the rest of an interrupted download of an archive that is there by now, unless another process uses it."""
    path = _partial_path(target)
    if not path.is_file():
        return
    with suppress(OSError), path.open("r+b") as file:
        if try_lock(file):
            path.unlink()


def _lock(file: BinaryIO, progress: bool, target: Path) -> bool:
    """Wait until no other process has the file; returns whether the system can do that."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if progress:
            print(f"another process is downloading {target}; waiting for it.", file=sys.stderr)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is the one that bears a name."""
    return path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat())


def _failure(archive: Archive, target: Path, part: Path, answers: list[str]) -> str:
    lines = "".join(f"\n  {answer}" for answer in answers) or "\n  no address is known."
    held = part.stat().st_size if part.is_file() else 0
    kept = f"{held:,} bytes are kept in {part}, the next try goes on from there." if held else "Nothing was kept."
    source = f" from {' or '.join(archive.addresses)}" if archive.urls else ""
    return (
        f"could not download {archive}:{lines}\n{kept} Get {archive.name} by hand{source}, check that its "
        f"{archive.checksum.replace(':', ' is ')}, and put it at {target}."
    )


def _web_page_hint(path: Path) -> str:
    """The usual cause of a wrong checksum: a page that asks for a log-in or reports a quota."""
    with path.open("rb") as file:
        page = file.read(1 << 16)
    return f" ({page_words(page.decode('utf-8', 'replace'))})" if page.lstrip().startswith(b"<") else ""
