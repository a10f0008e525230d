"""The command `metabridge`: verbs, version, exit status."""

import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from metabridge.cli.build import build
from metabridge.cli.common import interruptible, with_options
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
    context_settings={"help_option_names": ["-h", "--help"]},
)
_KEPT: dict[Callable[..., Any], str] = {
    compare: "No report was written; one of an earlier run is as it was.",
    build: "No unfinished store was kept; a download goes on where it stopped.",
    datasets: "Nothing was changed.",
    show: "Nothing was changed.",
}
"""Verb → what Ctrl-C leaves."""

for verb, kept in _KEPT.items():
    app.command()(interruptible(verb, kept))


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
        typer.echo(f"metabridge: {with_options(str(error), _options(sys.argv[1:]))}", err=True)
        sys.exit(2)
    except Exception:  # status 1 is a disagreement, never a bug
        traceback.print_exc()
        sys.exit(2)


def _options(words: Sequence[str]) -> dict[str, str]:
    """Argument → option of the verb among the words of the command line, or an argument's name in capitals."""
    verbs = getattr(typer.main.get_command(app), "commands", {})
    verb = next((verbs[word] for word in words if word in verbs), None)
    parameters = [] if verb is None else verb.params
    return {
        str(each.name): max(each.opts, key=len) if each.param_type_name == "option" else str(each.name).upper()
        for each in parameters
    }
