"""`metabridge compare`."""

import os
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metabridge.cli.common import Root, check_file, check_folder, print_table
from metabridge.configs import ALGORITHMS

if TYPE_CHECKING:
    from metabridge.configs import RunConfig

__all__ = ["compare", "repeating_command"]


def compare(
    dataset: Annotated[
        str, typer.Option(help="Benchmark, toy, or store of your own; `metabridge datasets` lists them.")
    ] = "sinusoid",
    root: Root = Path("data"),
    variant: Annotated[str | None, typer.Option(help="Variant of a stored benchmark, e.g. small1 of omniglot.")] = None,
    ways: Annotated[int | None, typer.Option(help="Classes per task. [benchmark's default]")] = None,
    shots: Annotated[int | None, typer.Option(help="Support examples per class. [benchmark's default]")] = None,
    test_shots: Annotated[int | None, typer.Option(help="Query examples per class. [benchmark's default]")] = None,
    algorithm: Annotated[str, typer.Option(help=f"One of {', '.join(ALGORITHMS)}; see docs/algorithms.md.")] = "maml",
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
    test_tasks: Annotated[int, typer.Option(help="Test tasks of each run, for the quality.")] = 200,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A tenth of the meta-steps, unless --steps is given, and at most 20 test tasks: the verdict rests on "
            "fewer meta-steps, and the quality is less certain.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Decides the episodes and the initial parameters.")] = 0,
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or gpu.")] = "auto",
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("metabridge-report"),
    json_file: Annotated[Path | None, typer.Option("--json", help="File to which compare.json is copied.")] = None,
) -> None:
    """Meta-train in PyTorch and in JAX on the same episodes, and report how far they agree.

    Exit status: 0 if they agree; 1 if they differ, with a sentence for each difference; 2 if the comparison could not
    run; 130 if it was stopped.
    """
    _share_the_machine()
    from metabridge.comparison.compare import compare
    from metabridge.reports.comparison import summary_rows, verdict, write_report
    from metabridge.runs.recipes import make_meta_datasets, make_run
    from metabridge.storage.atomic import replacing

    run = make_run(
        dataset,
        variant,
        root=root,
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
        test_episodes=test_tasks,
        quick=quick,
        seed=seed,
    )
    check_folder("--output", output)  # before the run, not after it
    if json_file is not None:
        check_file("--json", json_file)
    datasets = make_meta_datasets(run, root)
    typer.echo(
        f"{run.steps} meta-steps of {run.meta_batch_size} tasks and {run.test_episodes} test tasks in each framework. "
        "Measuring a few meta-steps first …",
        err=True,
    )
    comparison = compare(run, *datasets, device=device, announce=_announce)
    command = repeating_command(run, root, device, output)
    print_table(summary_rows(comparison))
    typer.echo(f"\n{verdict(comparison)}")
    typer.echo(f"Report: {write_report(comparison, output, command)}")
    typer.echo(f"Repeat: {command}")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(json_file, 0) as new:
            shutil.copyfile(output / "compare.json", new)
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


def _announce(seconds: float) -> None:
    typer.echo(
        f"All together takes about {_duration(seconds)}. Shorter: --quick, or fewer --steps and --test-tasks.", err=True
    )


def _duration(seconds: float) -> str:
    """Seconds in words, rounded."""
    if seconds < 90:
        return f"{max(5, 5 * round(seconds / 5))} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def repeating_command(run: "RunConfig", root: Path, device: str, output: Path) -> str:
    """The command of this run, with every choice spelled out: defaults may change."""
    episode, model, algorithm = run.episode, run.model, run.algorithm
    choices: dict[str, object] = {
        "--dataset": run.dataset,
        "--root": root,
        "--variant": run.variant,
        "--ways": episode.ways,
        "--shots": episode.shots,
        "--test-shots": episode.test_shots,
        "--algorithm": algorithm.name,
        "--inner-steps": algorithm.inner_steps or None,
        "--inner-lr": getattr(algorithm, "inner_lr", None),
        "--network": model.name,
        "--hidden": ",".join(map(str, model.hidden)),
        "--meta-optimiser": run.optimiser.name,
        "--meta-lr": run.optimiser.learning_rate,
        "--meta-batch-size": run.meta_batch_size,
        "--steps": run.steps,
        "--test-tasks": run.test_episodes,
        "--seed": run.seed,
        "--device": device,
        "--output": output,
    }
    words = [str(word) for choice in choices.items() if choice[1] is not None for word in choice]
    first_order = ["--first-order"] if getattr(algorithm, "first_order", False) else []
    return shlex.join(["metabridge", "compare", *words, *first_order])
