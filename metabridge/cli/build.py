"""`metabridge build`."""

from pathlib import Path
from typing import Annotated

import typer

from metabridge.cli.common import Root

__all__ = ["build"]


def build(
    dataset: Annotated[
        str, typer.Argument(help="Benchmark, see `metabridge datasets`. With --from-folder: name of the new store.")
    ],
    root: Root = Path("data"),
    variant: Annotated[
        str | None, typer.Option(help="Variant of the benchmark. [the first one that `metabridge datasets` lists]")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="The official archive, or a folder with the archives or their content. [download]",
        ),
    ] = None,
    from_folder: Annotated[
        Path | None,
        typer.Option(help="Folder with one folder of images per class: builds a store of your own images instead."),
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(help="With --from-folder: side to which images are resized. Without it all must be of one size."),
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="With --from-folder: convert images to L (grey), RGB or RGBA.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Also read the whole store and check it against its fingerprint.")
    ] = False,
) -> None:
    """Build a benchmark's store from its official archives.

    Archives are verified before they are opened. The store is written whole or not at all.
    """
    from metabridge.datasets.stores import verify_store
    from metabridge.sources import HDF5Source

    if from_folder is not None:
        if source is not None or variant is not None:
            raise ValueError("`--from-folder` cannot be combined with --from and --variant; leave them out.")
        path = _from_folder(dataset, root, from_folder, resize, mode)
    else:
        if resize is not None or mode is not None:
            raise ValueError("`--resize` and `--mode` go with --from-folder alone; a benchmark has its own.")
        path = _from_archives(dataset, root, variant, source, verify)
    stored = HDF5Source(path)
    typer.echo(
        f"{path}: {len(stored)} classes, {int(stored.class_sizes.sum())} examples, fingerprint {stored.fingerprint}"
    )
    if from_folder is not None:
        typer.echo(f'Use it with metabridge.sources.HDF5Source("{path}").')
    if verify:
        verify_store(path)
        typer.echo("verified: every byte is as it was written.")


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
        raise ValueError(f"{own} is a store of your own, which this verb only checks; pass --verify alone.")
    return own
