"""`metabridge build`."""

from pathlib import Path
from typing import Annotated

import typer

from metabridge.cli.common import Root

__all__ = ["build"]


def build(
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
    from metabridge.datasets.stores import verify_store
    from metabridge.sources import HDF5Source

    if from_folder is not None:
        if source is not None or variant is not None:
            raise ValueError("`--from-folder` cannot be combined with --from and --variant.")
        path = _from_folder(dataset, root, from_folder, resize, mode)
    else:
        if resize is not None or mode is not None:
            raise ValueError("`--resize` and `--mode` go with --from-folder alone; benchmarks have their own.")
        path = _from_archives(dataset, root, variant, source, verify)
    stored = HDF5Source(path)
    typer.echo(
        f"{path}: {len(stored)} classes, {int(stored.class_sizes.sum())} examples, fingerprint {stored.fingerprint}"
    )
    if from_folder is not None:
        typer.echo(f'Use it with metabridge.sources.HDF5Source("{path}").')
    if verify:
        verify_store(path)
        typer.echo("verified: every byte is what was written.")


def _from_folder(dataset: str, root: Path, folder: Path, resize: int | None, mode: str | None) -> Path:
    from metabridge.datasets.stores import build_own_store
    from metabridge.sources.lazy import UnequalExamplesError

    try:
        return build_own_store(dataset, root, folder, resize, None if mode is None else mode.upper())
    except UnequalExamplesError as error:
        raise ValueError(f"{error} On the command line: --resize SIDE --mode RGB.") from None


def _from_archives(dataset: str, root: Path, variant: str | None, source: Path | None, verify: bool) -> Path:
    from metabridge.datasets.benchmarks import build
    from metabridge.datasets.stores import find_benchmark, own_store

    own = own_store(dataset, root)
    if own is None:
        return build(find_benchmark(dataset, root), root, variant, source)
    if not verify or variant is not None or source is not None:
        raise ValueError(f"{own} is a store of yours; it can only be checked here: pass --verify alone.")
    return own
