"""Files that are replaced whole or not at all: written beside their targets, and moved into place.

A temporary file is one writer's alone; the next writer removes it if that one was killed.
"""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from metabridge.storage.kinds import check_target

__all__ = [
    "is_full_disk",
    "remove_orphans",
    "replacing",
    "replacing_together",
    "synchronise",
    "temporary_file",
    "try_lock",
]

_FILES = ".files"


@contextmanager
def replacing(target: Path, needed: int) -> Iterator[Path]:
    """A new empty file beside `target`, which takes its place when the block ends without an error.

    A file that a killed writer of `target` left is removed first. The bytes are on the disk before the file gets its
    good name, so that this name never stands for unwritten ones.

    Args:
        target: where the file will be; its folder is made if missing.
        needed: bytes that will be written, roughly.

    Raises:
        FileExistsError: if `target` is a folder, a link, a named pipe or a device.
        OSError: if the disk is full, before or while the block writes, which leaves nothing; the message says how
            much is needed.
    """
    check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_orphans(target)
    try:
        if needed > shutil.disk_usage(target.parent).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with temporary_file(target) as temporary:
            yield temporary
            synchronise(temporary)
            temporary.replace(target)
    except OSError as error:
        if not is_full_disk(error):
            raise
        free = shutil.disk_usage(target.parent).free
        raise OSError(
            errno.ENOSPC,
            f"{target} cannot be stored ({os.strerror(error.errno or 0)}): it needs {needed:,} bytes, and {free:,} are "
            "free on the disk; nothing was kept. Free some space or choose another folder",
        ) from None


@contextmanager
def replacing_together(folder: Path, names: Collection[str], last: str) -> Iterator[Path]:
    """A new empty folder, whose files go into `folder` together when the block ends without an error.

    Until then the files in `folder` stay as they are. Then those of these names are removed, all of them before the
    first new one is moved, so that old and new files never stand side by side. Other files are left alone.

    Args:
        folder: made if missing; after an error it is gone again.
        names: files that an earlier writer may have left in `folder`.
        last: the file that is removed first and moved last: where it is, the others are.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    remove_orphans(folder / "files")
    try:
        with temporary_file(folder / "files") as lock:
            new = lock.with_suffix(_FILES)
            new.mkdir()
            try:
                yield new
                for path in new.iterdir():
                    synchronise(path)
                for name in (last, *names):
                    (folder / name).unlink(missing_ok=True)
                for path in sorted(new.iterdir(), key=lambda path: path.name == last):
                    path.replace(folder / path.name)
            finally:
                shutil.rmtree(new, ignore_errors=True)
    except BaseException:
        for path in missing:
            with suppress(OSError):  # another process wrote into it
                path.rmdir()
        raise


def is_full_disk(error: OSError) -> bool:
    """Whether an error says that a disk takes no more."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def synchronise(path: Path) -> None:
    """Wait until the bytes of a file are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


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
            with suppress(OSError), path.open("r+b") as file:  # no locks, not ours, or removed by another process
                if try_lock(file):
                    shutil.rmtree(path.with_suffix(_FILES), ignore_errors=True)
                    path.unlink()


def try_lock(file: BinaryIO) -> bool:
    """Lock an open file for this process; `False` if another one has it.

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
