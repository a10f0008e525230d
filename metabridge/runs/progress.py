"""Progress bars on standard error."""

import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

__all__ = ["Progress", "no_progress", "progress_bar"]

T = TypeVar("T")

Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""A function `(items, label, total)` → the same items, shown as they are taken."""


def progress_bar(items: Iterable[T], label: str, total: int) -> Iterable[T]:
    """The items; a bar tells how many were taken, the time since the first and the time left."""
    from tqdm.auto import tqdm

    seconds = 0.1 if sys.stderr.isatty() else 10  # a log keeps every update
    bar: Iterable[T] = tqdm(items, desc=f"{label:<34}", total=total, mininterval=seconds, dynamic_ncols=True)
    return bar


def no_progress(items: Iterable[T], label: str, total: int) -> Iterable[T]:
    """The items without a bar."""
    del label, total
    return items
