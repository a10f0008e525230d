"""The command line: thin verbs over the library. `metabridge --help` lists them."""

import os
import re
import shutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from metabridge.datasets.catalogue import Entry
    from metabridge.metadatasets import MetaDataset

__all__ = ["app", "main"]

app = typer.Typer(
    name="metabridge",
    help="Few-shot episodes computed once, for PyTorch and for JAX, and the proof that both train alike.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Root = Annotated[Path, typer.Option(help="Folder of the stored benchmarks.")]


@app.command("compare")
def compare_command(
    dataset: Annotated[str, typer.Option(help="Benchmark: sinusoid (no download) or omniglot.")] = "sinusoid",
    root: Root = Path("data"),
    variant: Annotated[str | None, typer.Option(help="Variant of a stored benchmark, e.g. small1 of omniglot.")] = None,
    ways: Annotated[int | None, typer.Option(help="Classes per task. [benchmark's default]")] = None,
    shots: Annotated[int | None, typer.Option(help="Support examples per class. [benchmark's default]")] = None,
    test_shots: Annotated[int | None, typer.Option(help="Query examples per class. [benchmark's default]")] = None,
    algorithm: Annotated[str, typer.Option(help="Meta-learning algorithm: maml.")] = "maml",
    inner_steps: Annotated[int, typer.Option(help="Gradient steps on the support set.")] = 1,
    inner_lr: Annotated[float | None, typer.Option(help="Step size of these steps. [benchmark's default]")] = None,
    meta_batch_size: Annotated[int | None, typer.Option(help="Tasks per meta-step. [benchmark's default]")] = None,
    steps: Annotated[int | None, typer.Option(help="Meta-steps of each run. [benchmark's default]")] = None,
    seed: Annotated[int, typer.Option(help="Decides the episodes and the initial parameters.")] = 0,
    device: Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or gpu.")] = "auto",
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("metabridge-report"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write compare.json here.")] = None,
) -> None:
    """Meta-train in PyTorch and in JAX on the same episodes, and report how far they agree.

    Exit status: 0 if they agree, 1 if they differ (a sentence says what, where first and by how much), 2 if the
    comparison could not run.
    """
    # Read when the frameworks are loaded. torch's threads wait by spinning, for milliseconds unless told otherwise,
    # and starve JAX's where other work is going on: a meta-step of 4 ms took 87. JAX would reserve most of a GPU's
    # memory before PyTorch gets any.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    from metabridge.compare import compare
    from metabridge.recipes import make_meta_datasets, make_run
    from metabridge.report import summary_rows, verdict, write_report

    run = make_run(
        dataset, variant, ways, shots, test_shots, algorithm, inner_steps, inner_lr, meta_batch_size, steps, seed
    )
    _check_writable("--output", output)  # before the run, not after it
    if json_file is not None:
        _check_writable("--json", json_file.parent)
        if json_file.is_dir():
            raise ValueError(f"`--json` must be a file, got the folder {json_file}.")
    comparison = compare(run, *make_meta_datasets(run, root), device=device)
    _print_table(summary_rows(comparison))
    typer.echo(f"\n{verdict(comparison)}")
    typer.echo(f"Report: {write_report(comparison, output)}")
    if json_file is not None:
        shutil.copyfile(output / "compare.json", json_file)
    raise typer.Exit(0 if not comparison.disagreements() else 1)


def _check_writable(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise ValueError(f"`{option}` must be in a folder that can be written, {folder} cannot; choose another one.")


@app.command("build")
def build_command(
    dataset: Annotated[
        str, typer.Argument(help="Benchmark to build, listed by `metabridge datasets`; or, with --from-folder, a name.")
    ],
    root: Root = Path("data"),
    variant: Annotated[
        str | None, typer.Option(help="Which variant; the first one listed by `datasets` if left out.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="The official archive, or a folder with the archives or their content; downloaded if left out.",
        ),
    ] = None,
    from_folder: Annotated[
        Path | None,
        typer.Option(help="Build a store of your own images instead: a folder with one folder of images per class."),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(help="With --from-folder: the side to which images are resized; else all must be alike."),
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="With --from-folder: L (grey) or RGB, to which images are converted.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also read the whole store and check it against its fingerprint.")
    ] = False,
) -> None:
    """Make a benchmark's store from its official archives: verified, whole or not at all, read fast ever after."""
    from metabridge.sources import HDF5Source

    if from_folder is not None:
        if source is not None or variant is not None:
            raise ValueError("`--from-folder` goes without --from and --variant, which are of benchmarks.")
        path = _build_own(dataset, root, from_folder, resize, mode)
    else:
        if resize is not None or mode is not None:
            raise ValueError("`--resize` and `--mode` go with --from-folder alone; benchmarks have their own.")
        entry = _entry(dataset)
        path = entry.build(root, entry.variants[0] if variant is None else variant, source)
    stored = HDF5Source(path)
    typer.echo(
        f"{path}: {len(stored)} classes, {int(stored.class_sizes.sum())} examples, fingerprint {stored.fingerprint}"
    )
    if from_folder is not None:
        typer.echo(f'Use it with metabridge.sources.HDF5Source("{path}").')
    if verify:
        found = stored.recompute_fingerprint()
        if found != stored.fingerprint:
            raise ValueError(
                f"{path} holds other examples than were written: its fingerprint is {found}, recorded is "
                f"{stored.fingerprint}; delete the file and build it again."
            )
        typer.echo("verified: every byte is what was written.")


def _build_own(name: str, root: Path, folder: Path, resize: int | None, mode: str | None) -> Path:
    from metabridge.datasets.catalogue import BENCHMARKS
    from metabridge.sources import ImageFolderSource, save_source

    path = root / name / f"{name}.h5"
    if name in BENCHMARKS or name in TOYS:
        raise ValueError(f"`dataset` must be a name of your own, {name!r} is that of a benchmark.")
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"`dataset` must be a name of letters, digits, '-', '_' and '.', got {name!r}.")
    if path.exists():
        raise ValueError(f"{path} is there already; delete it, or choose another name.")
    save_source(ImageFolderSource(folder, resize=resize, mode=mode), path, {"benchmark": name, "folder": str(folder)})
    return path


@app.command("datasets")
def datasets_command(
    dataset: Annotated[str | None, typer.Argument(help="One benchmark, in more detail.")] = None,
    root: Root = Path("data"),
    classes: Annotated[bool, typer.Option("--classes", help="Also print the names of its classes.")] = False,
) -> None:
    """List the benchmarks, and which of them are built below ROOT; or one of them with its splits and classes."""
    from metabridge.datasets.catalogue import BENCHMARKS

    if dataset is not None:
        _print_details(_entry(dataset), root, classes)
        return
    if classes:
        raise ValueError(
            "`--classes` needs the name of a benchmark; write for example metabridge datasets cub --classes."
        )
    rows = [(name, "", "", "computed when asked for", what) for name, what in TOYS.items()]
    for entry in BENCHMARKS.values():
        for variant, count in zip(entry.variants, entry.num_classes, strict=True):
            path = entry.store_path(root, variant)
            sizes = [str(len(names)) for names in entry.split(variant, ()).values()]
            rows.append((entry.name, variant, "/".join(sizes) or str(count), _state_of(path), entry.description))
    _print_table([("benchmark", "variant", "classes", "state", "what it is"), *rows])


TOYS = {
    "sinusoid": "sinusoid regression, Finn et al. 2017",
    "harmonic": "sums of two sines, Lacoste et al. 2018",
    "sinusoid_and_line": "sinusoids and lines, Finn et al. 2018",
}


def _entry(dataset: str) -> "Entry":
    from metabridge.datasets.catalogue import BENCHMARKS

    if dataset not in BENCHMARKS:
        raise ValueError(f"`dataset` must be one of {', '.join(map(repr, BENCHMARKS))}, got {dataset!r}.")
    return BENCHMARKS[dataset]


def _print_details(entry: "Entry", root: Path, classes: bool) -> None:
    from metabridge.sources import HDF5Source

    typer.echo(f"{entry.name}: {entry.description}\nterms: {entry.licence}")
    for variant in entry.variants:
        path = entry.store_path(root, variant)
        state = _state_of(path)
        typer.echo(f"\n{variant}: {state}\n{path}")
        stored = HDF5Source(path) if state.startswith("built") else None
        sizes = {} if stored is None else dict(zip(stored.class_names, stored.class_sizes.tolist(), strict=True))
        for meta_split, names in entry.split(variant, tuple(sizes)).items():
            examples = f", {sum(sizes[name] for name in names):,} examples" if sizes else ""
            typer.echo(f"  meta-{meta_split}: {len(names)} classes{examples}")
            for name in names if classes else ():
                typer.echo(f"    {name}{f'  {sizes[name]}' if sizes else ''}")


@app.command("show")
def show_command(
    dataset: Annotated[str, typer.Argument(help="A built benchmark, or sinusoid, harmonic, sinusoid_and_line.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture.")] = Path("episode.png"),
    root: Root = Path("data"),
    variant: Annotated[str | None, typer.Option(help="Variant of a stored benchmark, e.g. small1 of omniglot.")] = None,
    ways: Annotated[int, typer.Option(help="Classes per task.")] = 5,
    shots: Annotated[int, typer.Option(help="Support examples per class.")] = 5,
    test_shots: Annotated[int, typer.Option(help="Query examples per class.")] = 5,
    meta_split: Annotated[str, typer.Option(help="train, val or test.")] = "train",
    seed: Annotated[int, typer.Option(help="Seed of the stream of episodes.")] = 0,
    index: Annotated[int, typer.Option(help="Which episode of it.")] = 0,
) -> None:
    """Draw one episode: support and query set as a labelled contact sheet, or as points for a regression."""
    from metabridge.figures import draw_episode

    meta_dataset: MetaDataset
    if dataset in TOYS:
        from metabridge.toy import helpers

        meta_dataset = getattr(helpers, dataset)(shots, test_shots=test_shots, meta_split=meta_split)
    else:
        meta_dataset = _entry(dataset).load(
            root, variant=variant, ways=ways, shots=shots, test_shots=test_shots, meta_split=meta_split
        )
    figure = draw_episode(meta_dataset, meta_dataset.episodes([index], seed))
    figure.savefig(output, bbox_inches="tight")
    typer.echo(f"{output}: episode {index} of seed {seed}, meta-{meta_split}")


def _state_of(path: Path) -> str:
    if not path.is_file():
        return "not built"
    from metabridge.sources import HDF5Source

    try:
        stored = HDF5Source(path)
    except ValueError:
        return "unreadable: delete it and build it again"
    return f"built, {path.stat().st_size / 1e6:.1f} MB, fingerprint {stored.fingerprint[:8]}…"


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def main() -> None:
    """Run the command line; an expected error is one message and exit status 2, without a traceback."""
    try:
        app()
    except (ValueError, TypeError, OSError, ModuleNotFoundError, FloatingPointError) as error:
        typer.echo(f"metabridge: {error}", err=True)
        sys.exit(2)
    except Exception:  # status 1 is a disagreement, never a bug
        traceback.print_exc()
        sys.exit(2)
