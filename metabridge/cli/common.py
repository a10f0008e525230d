"""The option and the table that several verbs share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["Root", "print_table"]

Root = Annotated[Path, typer.Option(help="Folder of the stores.")]


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of equally many cells in aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
