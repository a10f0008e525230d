"""What several verbs share: an option, tables, and errors in the words of the command line."""

import functools
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["Root", "check_file", "check_folder", "interruptible", "print_table", "with_options"]

Root = Annotated[Path, typer.Option(help="Folder of the stores.")]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as of a shell: 1 is a disagreement."""

_OTHER_NAMES = {
    "learning_rate": "meta_lr",
    "name": "meta_optimiser",
    "num_classes_per_task": "ways",
    "test_episodes": "test_tasks",
}
"""Argument of a record or a meta-dataset → option, where the two have different names."""


def print_table(rows: Sequence[tuple[str, ...]], columns: int | None = None) -> None:
    """Print rows of equally many cells in aligned columns.

    The last cell of a row that is wider than `columns`, by default those of the terminal, has a line of its own.
    """
    room = shutil.get_terminal_size().columns if columns is None else columns
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        line, start = "  ".join(cells).rstrip(), "  ".join(cells[:-1]).rstrip()
        typer.echo(line if len(line) <= room else f"{start}\n    {row[-1]}")


def with_options(message: str, parameters: Mapping[str, str]) -> str:
    """A message of the library in the words of the command line.

    >>> with_options("`inner_lr` must be a positive finite number, got 0.", {"inner_lr": "--inner-lr"})
    '`--inner-lr` must be a positive finite number, got 0.'

    Args:
        message: with Python's arguments between backticks.
        parameters: argument → option of the verb, or the name of its argument in capitals.
    """

    def option(found: re.Match[str]) -> str:
        name = found[1]
        return f"`{parameters.get(name) or parameters.get(_OTHER_NAMES.get(name, ''), name)}`"

    return re.sub(r"`(\w+)`", option, message.replace(", or pass download=True", ""))


def check_file(option: str, path: Path) -> None:
    """Raise `ValueError` unless a file can be written at `path`; its folders may be missing. Nothing is made."""
    if path.is_dir():
        raise ValueError(f"`{option}` must be a file, got the folder {path}; add the name of the file.")
    _check_parent(option, path)


def check_folder(option: str, path: Path) -> None:
    """Raise `ValueError` unless files can be written in the folder `path`, which may be missing. Nothing is made."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"`{option}` must be a folder, got the file {path}; choose another one.")
    _check_parent(option, path / "file")


def _check_parent(option: str, path: Path) -> None:
    """The first folder above that exists must be one, and writable."""
    above = next(each for each in path.absolute().parents if each.exists())
    if not above.is_dir():
        raise ValueError(f"`{option}` must be below a folder, {above} is a file; choose another one.")
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError:
        raise ValueError(
            f"`{option}` must be in a folder that can be written, {path.parent} cannot; choose another one."
        ) from None


def interruptible(verb: Callable[..., Any], kept: str) -> Callable[..., Any]:
    """The verb; Ctrl-C ends it with what was kept, and status 130."""

    @functools.wraps(verb)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return verb(*arguments, **options)
        except KeyboardInterrupt:
            typer.echo(f"\nmetabridge: stopped. {kept}", err=True)
            sys.exit(INTERRUPTED)

    return run
