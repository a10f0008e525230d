"""Temporary files beside their targets: one writer's alone, and removed by the next writer if that one was killed."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["remove_orphans", "temporary_file", "try_lock"]


@contextmanager
def temporary_file(target: Path) -> Iterator[Path]:
    """A new empty file beside `target`, under a hidden name, gone when the block ends.

    While the block runs its file is locked; the system ends the lock with the process, however that ends. So
    `remove_orphans` tells what a killed writer left from what a living one is writing.
    """
    path, file = _create(target)
    with file:
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def remove_orphans(target: Path) -> None:
    """Remove the temporary files that killed writers of `target` left.

    Where the file system has no locks everything is left alone.
    """
    name = re.compile(re.escape(f".{target.name}.") + r"[0-9a-f]{32}\.part")
    for path in target.parent.iterdir():
        if name.fullmatch(path.name):
            with suppress(OSError), path.open("r+b") as file:  # no locks, not ours, or removed by somebody else
                if try_lock(file):
                    path.unlink()


def try_lock(file: BinaryIO) -> bool:
    """Lock an open file for this process; `False` if somebody else has it.

    Raises:
        OSError: if the system or the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:
        raise OSError("this system has no `fcntl`") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _create(target: Path) -> tuple[Path, BinaryIO]:
    while True:
        path = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        file = path.open("xb")
        try:
            # Before the lock was there, `remove_orphans` of another process may have taken the file for an orphan.
            if try_lock(file) and path.exists():
                return path, file
            file.close()
        except OSError:
            file.close()
            path.unlink(missing_ok=True)
            # Under a name that `remove_orphans` never touches, should locks work where it runs.
            path = target.with_name(f".{target.name}.{uuid.uuid4().hex}.unlocked.part")
            return path, path.open("xb")
