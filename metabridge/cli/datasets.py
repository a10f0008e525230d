"""`metabridge datasets`."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metabridge.cli.common import Root, print_table

if TYPE_CHECKING:
    from metabridge.datasets.benchmarks import Benchmark, Variant
    from metabridge.datasets.stores import StoreFacts

__all__ = ["datasets"]

_ANY_WIDTH = 1000
_HEADER = ("benchmark", "variant", "classes", "examples", "shape", "disk", "terms", "state", "what it is")


def datasets(
    dataset: Annotated[str | None, typer.Argument(help="Benchmark, or store of your own, to describe.")] = None,
    root: Root = Path("data"),
    classes: Annotated[bool, typer.Option("--classes", help="Also print the names of its classes.")] = False,
) -> None:
    """List the benchmarks and what is built of them, or describe one with its splits and classes.

    Numbers with slashes are those of meta-train, meta-val and meta-test in the first split.
    """
    from metabridge.datasets.stores import find_benchmark, inspect_store, own_store

    if dataset is None:
        if classes:
            raise ValueError(
                "`--classes` needs the name of a benchmark; write for example metabridge datasets cub --classes."
            )
        _print_list([_HEADER, *_toy_rows(), *_benchmark_rows(root), *_own_rows(root)])
        return
    own = own_store(dataset, root)
    if own is not None:
        _print_own(inspect_store(own), classes)
    else:
        _print_benchmark(find_benchmark(dataset, root), root, classes)


_NARROW = ("benchmark", "variant", "classes", "shape", "disk", "state")


def _print_list(rows: list[tuple[str, ...]]) -> None:
    """The whole list in a file, a pipe or a wide terminal; in a narrow one its most asked-for columns."""
    room = shutil.get_terminal_size(fallback=(_ANY_WIDTH, 24)).columns
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if sum(widths) + 2 * len(widths) - 2 <= room:
        print_table(rows, room)
        return
    kept = [_HEADER.index(name) for name in _NARROW]
    print_table([tuple(row[column] for column in kept) for row in rows], room)
    typer.echo("\nMore of each: metabridge datasets NAME, or this list in a wider terminal.")


def _toy_rows() -> list[tuple[str, ...]]:
    from metabridge.datasets.catalogue import TOYS

    return [(name, "", "", "", "", "", "", "computed", toy.description) for name, toy in TOYS.items()]


def _benchmark_rows(root: Path) -> list[tuple[str, ...]]:
    from metabridge.datasets.benchmarks import store_path
    from metabridge.datasets.catalogue import BENCHMARKS
    from metabridge.datasets.stores import inspect_store

    rows: list[tuple[str, ...]] = []
    for benchmark in BENCHMARKS.values():
        for name, variant in benchmark.variants.items():
            facts = inspect_store(store_path(benchmark, root, name), benchmark, name)
            counts = (*_counts(variant, facts), _shape(variant.example_shape), _disk(facts))
            rows.append((benchmark.name, name, *counts, benchmark.terms, _state(facts), benchmark.description))
    return rows


def _own_rows(root: Path) -> list[tuple[str, ...]]:
    from metabridge.datasets.stores import inspect_store, own_stores

    rows: list[tuple[str, ...]] = []
    for name, path in own_stores(root).items():
        facts = inspect_store(path)
        counts = (
            (str(len(facts.class_sizes)), f"{sum(facts.class_sizes.values()):,}") if facts.class_sizes else ("", "")
        )
        rows.append((name, "", *counts, _shape(facts.example_shape), _disk(facts), "", _state(facts), "your own"))
    return rows


def _counts(variant: "Variant", facts: "StoreFacts") -> tuple[str, str]:
    """Classes and examples, by meta-split of the default split where that is known."""
    from metabridge.episodes.metadatasets import META_SPLITS

    split = next(iter(variant.splits.values()))(tuple(facts.class_sizes))
    parts = [split.get(meta_split, ()) for meta_split in META_SPLITS] if split else []
    examples = map(facts.count, parts) if facts.class_sizes else variant.num_examples
    return (
        "/".join(str(len(classes)) for classes in parts) or str(variant.num_classes),
        "/".join(f"{count:,}" for count in examples),
    )


def _print_benchmark(benchmark: "Benchmark", root: Path, names: bool) -> None:
    from metabridge.datasets.benchmarks import store_path
    from metabridge.datasets.stores import inspect_store

    typer.echo(f"{benchmark.title}: {benchmark.description}\nterms: {benchmark.licence}")
    for name, variant in benchmark.variants.items():
        facts = inspect_store(store_path(benchmark, root, name), benchmark, name)
        classes, examples = _counts(variant, facts)
        disk = _disk(facts)
        typer.echo(f"\n{name}: {classes} classes, {examples or 'unknown'} examples of {_shape(variant.example_shape)}")
        typer.echo(f"{_state(facts)}: {facts.path}{disk and f', {disk}'}")
        if facts.note:
            typer.echo(facts.note)
        if variant.by_hand:
            typer.echo(f"no download: {variant.by_hand} Then build it with --from.")
        else:
            archives = " and ".join(map(str, variant.archives))
            typer.echo(f"made from {archives}: downloaded, or with --from from a copy of yours, packed or unpacked")
        _print_splits(variant, facts, names)


def _print_splits(variant: "Variant", facts: "StoreFacts", names: bool) -> None:
    for title, split in variant.splits.items():
        parts = split(tuple(facts.class_sizes))
        typer.echo(f"  split {title}{'' if parts else ', known from the archive alone: build the benchmark to see it'}")
        for meta_split, members in parts.items():
            count = f", {facts.count(members):,} examples" if facts.class_sizes else ""
            typer.echo(f"    meta-{meta_split}: {len(members)} classes{count}")
            for name in members if names else ():
                typer.echo(f"      {name}{f'  {facts.class_sizes.get(name)}' if facts.class_sizes else ''}")


def _print_own(facts: "StoreFacts", names: bool) -> None:
    typer.echo(f"{_state(facts)}: {facts.path}, {_disk(facts)}")
    if not facts.class_sizes:
        typer.echo(facts.note)
        return
    total = sum(facts.class_sizes.values())
    typer.echo(f"{len(facts.class_sizes)} classes, {total:,} examples of {_shape(facts.example_shape)}")
    for name, count in facts.class_sizes.items() if names else ():
        typer.echo(f"  {name}  {count}")


def _state(facts: "StoreFacts") -> str:
    return f"{facts.state} {facts.fingerprint[:8]}".rstrip()


def _shape(example_shape: tuple[int, ...]) -> str:
    return "x".join(map(str, example_shape))


def _disk(facts: "StoreFacts") -> str:
    """Size of the file; of a store that is not built, about its future size."""
    if not facts.num_bytes:
        return ""
    about = "~" if facts.state == "not built" else ""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if facts.num_bytes >= scale:
            return f"{about}{facts.num_bytes / scale:.1f} {unit}"
    return f"{about}{facts.num_bytes / 1e3:.1f} kB"
