"""`metabridge compare`."""

import os
import shutil
from pathlib import Path
from typing import Annotated

import typer

from metabridge.cli.common import Root, print_table

__all__ = ["compare"]


def compare(
    dataset: Annotated[
        str, typer.Option(help="Benchmark, stored or toy; `metabridge datasets` lists them.")
    ] = "sinusoid",
    root: Root = Path("data"),
    variant: Annotated[str | None, typer.Option(help="Variant of a stored benchmark, e.g. small1 of omniglot.")] = None,
    ways: Annotated[int | None, typer.Option(help="Classes per task. [benchmark's default]")] = None,
    shots: Annotated[int | None, typer.Option(help="Support examples per class. [benchmark's default]")] = None,
    test_shots: Annotated[int | None, typer.Option(help="Query examples per class. [benchmark's default]")] = None,
    algorithm: Annotated[
        str, typer.Option(help="Name of an algorithm, such as maml or protonet; an unknown one lists them all.")
    ] = "maml",
    inner_steps: Annotated[
        int | None, typer.Option(help="Gradient steps on the support set. [benchmark's default]")
    ] = None,
    inner_lr: Annotated[float | None, typer.Option(help="Step size on the support set. [benchmark's default]")] = None,
    first_order: Annotated[
        bool, typer.Option("--first-order", help="Leave the second derivatives out of the meta-gradient.")
    ] = False,
    network: Annotated[str | None, typer.Option(help="mlp, conv4 or resnet12. [benchmark's default]")] = None,
    hidden: Annotated[
        str | None, typer.Option(help="Widths of the network's layers, as 64,64,64,64. [benchmark's default]")
    ] = None,
    meta_optimiser: Annotated[str, typer.Option(help="Optimiser of the outer loop: adam or sgd.")] = "adam",
    meta_lr: Annotated[float | None, typer.Option(help="Step size of the outer loop. [default: 0.001]")] = None,
    meta_batch_size: Annotated[int | None, typer.Option(help="Tasks per meta-step. [benchmark's default]")] = None,
    steps: Annotated[int | None, typer.Option(help="Meta-steps of each run. [benchmark's default]")] = None,
    seed: Annotated[int, typer.Option(help="Decides the episodes and the initial parameters.")] = 0,
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or gpu.")] = "auto",
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("metabridge-report"),
    json_file: Annotated[Path | None, typer.Option("--json", help="File to which compare.json is copied.")] = None,
) -> None:
    """Meta-train in PyTorch and in JAX on the same episodes, and report how far they agree.

    Exit status: 0 if they agree; 1 if they differ, with a sentence for each difference; 2 if the comparison could not
    run.
    """
    _share_the_machine()
    from metabridge.comparison.compare import compare
    from metabridge.reports.comparison import summary_rows, verdict, write_report
    from metabridge.runs.recipes import make_meta_datasets, make_run

    run = make_run(
        dataset,
        variant,
        ways=ways,
        shots=shots,
        test_shots=test_shots,
        algorithm=algorithm,
        inner_steps=inner_steps,
        inner_lr=inner_lr,
        first_order=first_order or None,
        network=network,
        hidden=None if hidden is None else _widths(hidden),
        meta_optimiser=meta_optimiser,
        meta_lr=meta_lr,
        meta_batch_size=meta_batch_size,
        steps=steps,
        seed=seed,
    )
    _check_writable("--output", output)  # before the run, not after it
    if json_file is not None:
        _check_writable("--json", json_file.parent)
        if json_file.is_dir():
            raise ValueError(f"`--json` must be a file, got the folder {json_file}.")
    comparison = compare(run, *make_meta_datasets(run, root), device=device)
    print_table(summary_rows(comparison))
    typer.echo(f"\n{verdict(comparison)}")
    typer.echo(f"Report: {write_report(comparison, output)}")
    if json_file is not None:
        shutil.copyfile(output / "compare.json", json_file)
    raise typer.Exit(0 if not comparison.disagreements() else 1)


def _widths(hidden: str) -> tuple[int, ...]:
    """The integers of `64,64,64,64`."""
    parts = hidden.split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"`--hidden` must be positive integers with commas between, as 64,64,64,64, got {hidden!r}.")
    return tuple(int(part) for part in parts)


def _share_the_machine() -> None:
    """Set what both frameworks read when they are loaded, unless the user has set it.

    torch's threads wait by spinning, for milliseconds unless told otherwise, and starve JAX's where other work is
    going on: a meta-step of 4 ms took 87. JAX would reserve most of a GPU's memory before PyTorch gets any.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _check_writable(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise ValueError(f"`{option}` must be in a folder that can be written, {folder} cannot; choose another one.")
