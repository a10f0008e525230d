"""The benchmarks that can be built, as the command line lists them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from metabridge.datasets import omniglot

__all__ = ["BENCHMARKS", "Benchmark"]


class Build(Protocol):
    """Builds one variant's store, unless it is built already, and returns its path."""

    def __call__(
        self,
        root: str | os.PathLike[str],
        variant: str = ...,
        source: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> Path: ...


class StorePath(Protocol):
    """Where one variant's store is, or will be."""

    def __call__(self, root: str | os.PathLike[str], variant: str = ...) -> Path: ...


@dataclass(frozen=True)
class Benchmark:
    """What the command line needs to know of a benchmark.

    Attributes:
        name: its name on the command line.
        description: one line.
        variants: names of what can be built, the default one first.
        num_classes: number of classes of each variant, in the same order.
        build: builds a variant's store.
        store_path: where a variant's store is, or will be.
    """

    name: str
    description: str
    variants: tuple[str, ...]
    num_classes: tuple[int, ...]
    build: Build
    store_path: StorePath


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="omniglot",
            description="handwritten characters, 20 drawings each, 28x28 grey, Lake et al. 2015",
            variants=tuple(omniglot.VARIANTS),
            num_classes=tuple(sum(part.characters for part in parts) for parts in omniglot.VARIANTS.values()),
            build=omniglot.build,
            store_path=omniglot.store_path,
        ),
    )
}
