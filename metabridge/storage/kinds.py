"""Kinds of files: devices, named pipes, links and folders are told from regular files without being opened."""

import os
import stat
from pathlib import Path

__all__ = ["check_file", "check_target"]

_KINDS = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def check_file(path: Path) -> os.stat_result:
    """The status of a regular file, or of the one that a link leads to.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if there is a folder, a named pipe or a device.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} must be a file, it is {_kind(status.st_mode)}; remove it, or give another path.")
    return status


def check_target(path: Path) -> None:
    """Check that a file may be put at `path`: there is nothing, or a regular file.

    Raises:
        FileExistsError: if there is a folder, a link, a named pipe or a device.
    """
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(mode):
        raise FileExistsError(f"{path} is {_kind(mode)}, where a file is to be put; remove it, or choose another path.")


def _kind(mode: int) -> str:
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "a device")
