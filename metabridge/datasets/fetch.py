"""Official archives: what identifies one, and how it gets onto this machine, verified."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Archive", "fetch", "verify"]

_TIMEOUT_SECONDS = 30  # without an answer or a further byte, not for the whole download
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Archive:
    """An official archive.

    Attributes:
        name: file name.
        urls: addresses, the preferred one first.
        sha256: hexadecimal checksum; this, not the name, identifies the file.
        size: bytes, or `None` if unknown.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str
    size: int | None = None

    def __str__(self) -> str:
        size = "" if self.size is None else f"{self.size:,} bytes, "
        return f"{self.name} ({size}sha256 {self.sha256})"


def verify(path: str | os.PathLike[str], archive: Archive) -> None:
    """Check a file's size and checksum, reading it in blocks and only reading it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is another file than `archive`.
    """
    path = Path(path)
    difference = _difference(path, archive)
    if difference is not None:
        raise ValueError(
            f"{path} is not the official {archive}: {difference}. It was left as it is; it may have been cut "
            f"short or be another edition: get it again from {' or '.join(archive.urls)}."
        )


def _difference(path: Path, archive: Archive) -> str | None:
    """How a file differs from the official one, or `None` if it is the same."""
    size = path.stat().st_size
    if archive.size is not None and size != archive.size:
        return f"it holds {size:,} bytes, expected {archive.size:,}"
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return None if found == archive.sha256 else f"its sha256 is {found}, expected {archive.sha256}"


def fetch(archive: Archive, folder: str | os.PathLike[str], progress: bool = True) -> Path:
    """The verified archive in `folder`, downloaded unless it is there already.

    The addresses are tried in order. A download is written beside its target under a temporary name and moved
    into place when its checksum is right; a file of the same name with another checksum is then replaced.

    Args:
        archive: which archive.
        folder: the downloads folder, made if missing.
        progress: show a bar on standard error.

    Returns:
        `folder / archive.name`.

    Raises:
        ConnectionError: if no address delivered a file.
        ValueError: if one delivered another file, by size or checksum, and no other the right one.
    """
    target = Path(folder) / archive.name
    answers: list[str] = []
    if target.is_file():
        difference = _difference(target, archive)
        if difference is None:
            return target
        answers.append(f"{target}, already there: {difference}")
    wrong_content = False
    for url in archive.urls:
        try:
            return _download(url, archive, target, progress)
        except OSError as error:
            if error.errno is not None:  # the disk's error; what a server answers carries no errno
                raise
            answers.append(f"{url}: {error or type(error).__name__}")
        except ValueError as error:
            wrong_content = True
            answers.append(f"{url}: {error}")
    kind = ValueError if wrong_content else ConnectionError
    raise kind(_failure(archive, target, answers))


def _failure(archive: Archive, target: Path, answers: list[str]) -> str:
    lines = "".join(f"\n  {answer}" for answer in answers)
    return (
        f"could not download {archive}:{lines}\nNothing of these downloads was kept. Get the file by other "
        f"means and put it at {target}, or name it with `--from FILE` (`source=` in Python)."
    )


def _download(url: str, archive: Archive, target: Path, progress: bool) -> Path:
    import pooch  # 0.1 s to import, and needed only here

    pooch.retrieve(
        url,
        known_hash=f"sha256:{archive.sha256}",
        fname=target.name,
        path=target.parent,
        downloader=_checking_downloader(archive, progress),
    )
    return target


def _checking_downloader(archive: Archive, progress: bool) -> Callable[[str, str, Any], None]:
    """A pooch downloader that says what arrived instead of the archive; pooch deletes it then."""
    import pooch

    http = pooch.HTTPDownloader(progressbar=progress, chunk_size=_CHUNK_BYTES, timeout=_TIMEOUT_SECONDS)

    def download(url: str, output_file: str, caller: Any) -> None:
        http(url, output_file, caller)
        arrived = Path(output_file)
        difference = _difference(arrived, archive)
        if difference is not None:
            raise ValueError(f"{difference}{_web_page_hint(arrived)}")

    return download


def _web_page_hint(path: Path) -> str:
    """The usual cause of a wrong checksum: a page that asks for a log-in or reports a quota."""
    with path.open("rb") as file:
        is_page = file.read(64).lstrip().startswith(b"<")
    return " (a web page arrived instead of the archive)" if is_page else ""
