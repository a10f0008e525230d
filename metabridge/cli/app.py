"""The command `metabridge`: verbs, version, exit status."""

import sys
import traceback
from typing import Annotated

import typer

from metabridge.cli.build import build
from metabridge.cli.compare import compare
from metabridge.cli.datasets import datasets
from metabridge.cli.show import show

__all__ = ["app", "main"]

app = typer.Typer(
    name="metabridge",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (compare, build, datasets, show):
    app.command()(verb)


def _print_version(wanted: bool) -> None:
    if wanted:
        from metabridge import __version__

        typer.echo(f"metabridge {__version__}")
        raise typer.Exit


@app.callback()
def callback(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Few-shot episodes computed once, for PyTorch and for JAX, and the proof that both train alike."""


def main() -> None:
    """Run the command line. An expected error is one message without a traceback, and exit status 2."""
    try:
        app()
    except (ValueError, TypeError, OSError, ModuleNotFoundError, FloatingPointError) as error:
        typer.echo(f"metabridge: {error}", err=True)
        sys.exit(2)
    except Exception:  # status 1 is a disagreement, never a bug
        traceback.print_exc()
        sys.exit(2)
