"""The command line: thin verbs over the library. `metabridge --help` lists them."""

import difflib
import os
import re
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from metabridge.episodes.metadatasets import META_SPLITS, MetaDataset
from metabridge.toy.catalogue import TOYS, load_toy

if TYPE_CHECKING:
    from metabridge.datasets.benchmarks import Benchmark, Variant

__all__ = ["app", "main"]

app = typer.Typer(
    name="metabridge",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from metabridge import __version__

        typer.echo(f"metabridge {__version__}")
        raise typer.Exit


Root = Annotated[Path, typer.Option(help="Folder of the stored benchmarks.")]


@app.callback()
def callback(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Few-shot episodes computed once, for PyTorch and for JAX, and the proof that both train alike."""


@app.command("compare")
def compare_command(
    dataset: Annotated[
        str, typer.Option(help="Benchmark, stored or toy; `metabridge datasets` lists them.")
    ] = "sinusoid",
    root: Root = Path("data"),
    variant: Annotated[str | None, typer.Option(help="Variant of a stored benchmark, e.g. small1 of omniglot.")] = None,
    ways: Annotated[int | None, typer.Option(help="Classes per task. [benchmark's default]")] = None,
    shots: Annotated[int | None, typer.Option(help="Support examples per class. [benchmark's default]")] = None,
    test_shots: Annotated[int | None, typer.Option(help="Query examples per class. [benchmark's default]")] = None,
    algorithm: Annotated[str, typer.Option(help="Meta-learning algorithm: maml.")] = "maml",
    inner_steps: Annotated[
        int | None, typer.Option(help="Gradient steps on the support set. [benchmark's default]")
    ] = None,
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
    from metabridge.comparison.compare import compare
    from metabridge.reports.comparison import summary_rows, verdict, write_report
    from metabridge.runs.recipes import make_meta_datasets, make_run

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
        str | None, typer.Option(help="With --from-folder: L (grey), RGB or RGBA, to which images are converted.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also read the whole store and check it against its fingerprint.")
    ] = False,
) -> None:
    """Make a benchmark's store from its official archives: verified, whole or not at all, read fast ever after."""
    from metabridge.datasets.benchmarks import build
    from metabridge.sources import HDF5Source

    if from_folder is not None:
        if source is not None or variant is not None:
            raise ValueError("`--from-folder` goes without --from and --variant, which are of benchmarks.")
        path = _build_own(dataset, root, from_folder, resize, mode)
    else:
        if resize is not None or mode is not None:
            raise ValueError("`--resize` and `--mode` go with --from-folder alone; benchmarks have their own.")
        own = _own_store(dataset, root)
        if own is not None and not (verify and (variant, source) == (None, None)):
            raise ValueError(f"{own} is a store of yours; all that can be done with it here is to check it: --verify.")
        path = own or build(_benchmark(dataset, root), root, variant, source)
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
    from metabridge.sources.lazy import UnequalExamplesError

    path = root / name / f"{name}.h5"
    if name in BENCHMARKS or name in TOYS:
        raise ValueError(f"`dataset` must be a name of your own, {name!r} is that of a benchmark.")
    if not re.fullmatch(_OWN_NAME, name):
        raise ValueError(f"`dataset` must be a name of letters, digits, '-', '_' and '.', got {name!r}.")
    if path.exists():
        raise ValueError(
            f"{path} is there already; delete it, or choose another name. (To check it, write --verify in place of "
            "--from-folder.)"
        )
    images = ImageFolderSource(folder, resize=resize, mode=None if mode is None else mode.upper())
    try:
        save_source(images, path, {"benchmark": name, "folder": str(folder)})
    except UnequalExamplesError as error:
        raise ValueError(f"{error} On the command line: --resize SIDE --mode RGB.") from None
    return path


_OWN_NAME = r"\w[\w.-]*"


def _own_store(name: str, root: Path) -> Path | None:
    """The store that `build NAME --from-folder` made, if there is one."""
    from metabridge.datasets.catalogue import BENCHMARKS

    path = root / name / f"{name}.h5"
    return path if name not in BENCHMARKS and re.fullmatch(_OWN_NAME, name) and path.is_file() else None


@app.command("datasets")
def datasets_command(
    dataset: Annotated[str | None, typer.Argument(help="One benchmark or store of yours, in more detail.")] = None,
    root: Root = Path("data"),
    classes: Annotated[bool, typer.Option("--classes", help="Also print the names of its classes.")] = False,
) -> None:
    """List the benchmarks and which of them are built below ROOT; or tell one's splits and classes.

    Numbers with slashes are those of meta-train, meta-val and meta-test in the first split.
    """
    from metabridge.datasets.benchmarks import store_path
    from metabridge.datasets.catalogue import BENCHMARKS

    if dataset is not None:
        own = _own_store(dataset, root)
        if own is not None:
            _print_own(own, classes)
        else:
            _print_details(_benchmark(dataset, root), root, classes)
        return
    if classes:
        raise ValueError(
            "`--classes` needs the name of a benchmark; write for example metabridge datasets cub --classes."
        )
    rows = [(name, "", "", "", "", "", "", "computed", toy.description) for name, toy in TOYS.items()]
    for each in BENCHMARKS.values():
        for name, variant in each.variants.items():
            stored = _look(store_path(each, root, name), variant)
            found = (*_facts(variant, stored), stored.disk, each.terms, stored.state)
            rows.append((each.name, name, *found, each.description))
    for path in sorted(root.glob("*/*.h5")):
        if _own_store(path.stem, root) == path:
            stored = _look(path)
            shape = "x".join(map(str, stored.example_shape))
            total = f"{stored.examples(tuple(stored.sizes)):,}" if stored.sizes else ""
            facts = str(len(stored.sizes) or ""), total, shape
            rows.append((path.stem, "", *facts, stored.disk, "", stored.state, "your own"))
    _print_table(
        [("benchmark", "variant", "classes", "examples", "shape", "disk", "terms", "state", "what it is"), *rows]
    )


def _benchmark(dataset: str, root: Path) -> "Benchmark":
    from metabridge.datasets.catalogue import BENCHMARKS

    if dataset in TOYS:
        raise ValueError(
            f"`dataset` must be a stored benchmark, {dataset!r} is computed: it has no store and no splits."
        )
    if dataset not in BENCHMARKS:
        own = [path.stem for path in root.glob("*/*.h5") if _own_store(path.stem, root) == path]
        near = difflib.get_close_matches(dataset, [*BENCHMARKS, *TOYS, *own])
        meant = f"; did you mean {' or '.join(map(repr, near))}?" if near else "."
        raise ValueError(
            f"`dataset` must be one of {', '.join(map(repr, BENCHMARKS))}, or a store of yours below {root}, "
            f"got {dataset!r}{meant}"
        )
    return BENCHMARKS[dataset]


class _Stored(NamedTuple):
    """What is found of one variant below the root."""

    state: str
    disk: str
    sizes: Mapping[str, int]
    """Class → how many examples; empty if it is not built."""
    example_shape: tuple[int, ...]
    note: str
    """How its examples were made, or what is wrong with it and what to do."""

    def examples(self, classes: Sequence[str]) -> int:
        """How many examples these classes have."""
        return sum(self.sizes.get(name, 0) for name in classes)


def _look(path: Path, variant: "Variant | None" = None) -> _Stored:
    expected = variant.example_shape if variant else ()
    if not path.is_file():
        disk = f"~{_size(variant.num_bytes)}" if variant and variant.num_bytes else ""
        return _Stored("not built", disk, {}, expected, "")
    from metabridge.sources.hdf5 import FormatVersionError, HDF5Source

    disk = _size(path.stat().st_size)
    try:
        stored = HDF5Source(path)
    except ValueError as error:
        state = "other format" if isinstance(error, FormatVersionError) else "damaged"
        return _Stored(state, disk, {}, expected, str(error))
    sizes = dict(zip(stored.class_names, stored.class_sizes.tolist(), strict=True))
    preparation = stored.provenance.get("preparation", "not recorded")
    state, note = f"built {stored.fingerprint[:8]}", f"preparation: {preparation}"
    return _Stored(state, disk, sizes, stored.example_shape, note)


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def _facts(variant: "Variant", stored: _Stored) -> tuple[str, str, str]:
    """Classes and examples, by meta-split of the default split where that is known, and the shape of one example."""
    split = next(iter(variant.splits.values()))(tuple(stored.sizes))
    parts = [split.get(meta_split, ()) for meta_split in META_SPLITS] if split else []
    examples = [stored.examples(classes) for classes in parts] if stored.sizes else variant.num_examples
    return (
        "/".join(str(len(classes)) for classes in parts) or str(variant.num_classes),
        "/".join(f"{count:,}" for count in examples),
        "x".join(map(str, variant.example_shape)),
    )


def _print_details(benchmark: "Benchmark", root: Path, names: bool) -> None:
    from metabridge.datasets.benchmarks import store_path

    typer.echo(f"{benchmark.title}: {benchmark.description}\nterms: {benchmark.licence}")
    for name, variant in benchmark.variants.items():
        path = store_path(benchmark, root, name)
        stored = _look(path, variant)
        classes, examples, shape = _facts(variant, stored)
        typer.echo(f"\n{name}: {classes} classes, {examples or 'unknown'} examples of {shape}")
        typer.echo(f"{stored.state}: {path}{stored.disk and f', {stored.disk}'}")
        if stored.note:
            typer.echo(stored.note)
        if variant.by_hand:
            typer.echo(f"no download: {variant.by_hand} Then build it with --from.")
        else:
            what = " and ".join(map(str, variant.archives))
            typer.echo(f"made from {what}: downloaded, or --from where you have it, packed or unpacked")
        for title, split in variant.splits.items():
            parts = split(tuple(stored.sizes))
            typer.echo(f"  split {title}{'' if parts else ', which depends on the archive: see it when it is built'}")
            for meta_split, members in parts.items():
                count = f", {stored.examples(members):,} examples" if stored.sizes else ""
                typer.echo(f"    meta-{meta_split}: {len(members)} classes{count}")
                for each in members if names else ():
                    typer.echo(f"      {each}{f'  {stored.sizes.get(each)}' if stored.sizes else ''}")


def _print_own(path: Path, names: bool) -> None:
    stored = _look(path)
    typer.echo(f"{stored.state}: {path}, {stored.disk}")
    if not stored.sizes:
        typer.echo(stored.note)
        return
    total = stored.examples(tuple(stored.sizes))
    typer.echo(f"{len(stored.sizes)} classes, {total:,} examples of {'x'.join(map(str, stored.example_shape))}")
    for name, count in stored.sizes.items() if names else ():
        typer.echo(f"  {name}  {count}")


@app.command("show")
def show_command(
    dataset: Annotated[
        str, typer.Argument(help="A built benchmark, a store of yours, or sinusoid, harmonic, sinusoid_and_line.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture.")] = Path("episode.png"),
    root: Root = Path("data"),
    variant: Annotated[str | None, typer.Option(help="Variant of a stored benchmark, e.g. small1 of omniglot.")] = None,
    ways: Annotated[int | None, typer.Option(help="Classes per task. [benchmark's default]")] = None,
    shots: Annotated[int, typer.Option(help="Support examples per class.")] = 5,
    test_shots: Annotated[int, typer.Option(help="Query examples per class.")] = 5,
    meta_split: Annotated[str | None, typer.Option(help="train, val or test. [train]")] = None,
    split: Annotated[
        str | None, typer.Option(help="One of its splits, as `metabridge datasets NAME` calls it. [the first one]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the stream of episodes.")] = 0,
    index: Annotated[int, typer.Option(help="Which episode of it.")] = 0,
) -> None:
    """Draw one episode: support and query set as a labelled contact sheet, or as points for a regression."""
    from metabridge.reports.figures import draw_episode

    meta_dataset: MetaDataset
    own = _own_store(dataset, root)
    if dataset in TOYS:
        if (ways, variant, split) != (None, None, None):
            raise ValueError(
                f"`--ways`, `--variant` and `--split` are of stored benchmarks, {dataset} is a toy; leave them out."
            )
        meta_dataset = load_toy(dataset, shots, test_shots, meta_split or "train")
    elif own is not None:
        if (variant, split, meta_split) != (None, None, None):
            raise ValueError(
                "`--variant`, `--split` and `--meta-split` are of benchmarks, not of stores of yours; leave them out."
            )
        meta_dataset = _load_own(own, ways, shots, test_shots)
    else:
        from metabridge.datasets.catalogue import load

        chosen = {"shots": shots, "test_shots": test_shots, "meta_split": meta_split or "train"}
        meta_dataset = load(_benchmark(dataset, root), root, variant, ways, split, **chosen)
    figure = draw_episode(meta_dataset, meta_dataset.episodes([index], seed))
    output = output if output.suffix else output.with_suffix(".png")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, bbox_inches="tight")
    of = "" if own is not None else f", meta-{meta_split or 'train'}{f' of {split}' if split else ''}"
    typer.echo(f"{output}: episode {index} of seed {seed}{of}")


def _load_own(path: Path, ways: int | None, shots: int, test_shots: int) -> "MetaDataset":
    from metabridge.episodes.metadatasets import CombinationMetaDataset
    from metabridge.episodes.splitters import ClassSplitter
    from metabridge.sources import HDF5Source

    source = HDF5Source(path)
    dataset = CombinationMetaDataset(source, min(5, len(source)) if ways is None else ways)
    return ClassSplitter(dataset, num_train_per_class=shots, num_test_per_class=test_shots)


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
