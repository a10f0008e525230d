"""`metabridge show`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metabridge.cli.common import Root, check_file

if TYPE_CHECKING:
    from metabridge.episodes.metadatasets import MetaDataset

__all__ = ["show"]


def show(
    dataset: Annotated[
        str, typer.Argument(help="Built benchmark, store of your own, or sinusoid, harmonic, sinusoid_and_line.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="File of the picture.")] = Path("episode.png"),
    root: Root = Path("data"),
    variant: Annotated[str | None, typer.Option(help="Variant of a stored benchmark, e.g. small1 of omniglot.")] = None,
    ways: Annotated[int | None, typer.Option(help="Classes per task. [benchmark's default]")] = None,
    shots: Annotated[int, typer.Option(help="Support examples per class.")] = 5,
    test_shots: Annotated[int, typer.Option(help="Query examples per class.")] = 5,
    meta_split: Annotated[str | None, typer.Option(help="train, val or test. [train]")] = None,
    split: Annotated[
        str | None, typer.Option(help="Split, by its name in `metabridge datasets NAME`. [the first one]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the stream of episodes.")] = 0,
    index: Annotated[int, typer.Option(help="Index of the episode in this stream.")] = 0,
) -> None:
    """Draw one episode: a labelled contact sheet of support and query set, or the points of a regression."""
    from metabridge.checks import check_choice
    from metabridge.datasets.catalogue import TOYS, load_toy
    from metabridge.datasets.stores import find_benchmark, load_own_store, own_store
    from metabridge.reports.figures import draw_episode
    from metabridge.storage.atomic import replacing

    check_file("--output", output)
    output = output if output.suffix else output.with_suffix(".png")
    check_file("--output", output)
    meta_dataset: MetaDataset
    own = own_store(dataset, root)
    if dataset in TOYS:
        if (ways, variant, split) != (None, None, None):
            raise ValueError(
                f"`--ways`, `--variant` and `--split` are of stored benchmarks, {dataset} is a toy; leave them out."
            )
        meta_dataset = load_toy(dataset, shots, test_shots, meta_split or "train")
    elif own is not None:
        if (variant, split, meta_split) != (None, None, None):
            raise ValueError(
                "`--variant`, `--split` and `--meta-split` are of benchmarks; leave them out for your own store."
            )
        meta_dataset = load_own_store(own, ways, shots, test_shots)
    else:
        from metabridge.datasets.catalogue import load

        chosen = {"shots": shots, "test_shots": test_shots, "meta_split": meta_split or "train"}
        meta_dataset = load(find_benchmark(dataset, root), root, variant, ways, split, **chosen)
    of = "" if own is not None else f", meta-{meta_split or 'train'}{f' of {split}' if split else ''}"
    words = f"episode {index} of seed {seed}{of}"
    name = f"{dataset} ({variant})" if variant else dataset
    figure = draw_episode(meta_dataset, meta_dataset.episodes([index], seed), f"{name}: {words}")
    kinds = figure.canvas.get_supported_filetypes()
    check_choice(output.suffix.lower().removeprefix("."), "--output", kinds, owner="a picture")
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output, 0) as new:
        figure.savefig(new, bbox_inches="tight", format=output.suffix.lower().removeprefix("."))
    typer.echo(f"{output}: {words}")
