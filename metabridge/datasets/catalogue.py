"""The benchmarks that can be built, as the command line lists them."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from metabridge.datasets import benchmarks, helpers, omniglot
from metabridge.datasets.cifar import CIFAR_FS, FC_100
from metabridge.datasets.cub import CUB_200
from metabridge.datasets.miniimagenet import MINI_IMAGENET
from metabridge.datasets.multimnist import DOUBLE_MNIST, TRIPLE_MNIST
from metabridge.datasets.tabular import BACH, LETTER, PLANTS_MARGIN, PLANTS_SHAPE, PLANTS_TEXTURE
from metabridge.datasets.tieredimagenet import TIERED_IMAGENET
from metabridge.metadatasets import META_SPLITS, MetaDataset

__all__ = ["BENCHMARKS", "Entry"]

ONLY = "full"
"""Name of the variant of a benchmark that has one alone."""


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
class Entry:
    """What the command line needs to know of a benchmark.

    Attributes:
        name: its name on the command line.
        description: one line.
        variants: names of what can be built, the default one first.
        num_classes: number of classes of each variant, in the same order.
        build: builds a variant's store.
        store_path: where a variant's store is, or will be.
        split: from a variant and its class names, if it is built, to meta-split → names of its classes; empty where
            that cannot be said before it is built.
        load: from a folder, with the keyword arguments of the paper's helpers, to a meta-dataset.
        licence: what is known of the terms.
    """

    name: str
    description: str
    variants: tuple[str, ...]
    num_classes: tuple[int, ...]
    build: Build
    store_path: StorePath
    split: Callable[[str, Sequence[str]], Mapping[str, Sequence[str]]]
    load: Callable[..., MetaDataset]
    licence: str


def _entry(benchmark: benchmarks.Benchmark, load: Callable[..., MetaDataset]) -> Entry:
    def known(variant: str) -> None:
        if variant != ONLY:
            raise ValueError(f"`variant` of {benchmark.name} must be {ONLY!r}, the only one, got {variant!r}.")

    def build(
        root: str | os.PathLike[str],
        variant: str = ONLY,
        source: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> Path:
        known(variant)
        return benchmarks.build(benchmark, root, source, progress)

    def store_path(root: str | os.PathLike[str], variant: str = ONLY) -> Path:
        known(variant)
        return benchmarks.store_path(benchmark, root)

    def split(variant: str, class_names: Sequence[str]) -> Mapping[str, Sequence[str]]:
        del class_names
        known(variant)
        return {name: benchmark.split()[name] for name in META_SPLITS}

    def load_variant(root: str | os.PathLike[str], variant: str | None = None, **arguments: Any) -> MetaDataset:
        known(variant or ONLY)
        return load(root, **arguments)

    return Entry(
        benchmark.name,
        benchmark.description,
        (ONLY,),
        (benchmark.num_classes,),
        build,
        store_path,
        split,
        load_variant,
        benchmark.licence,
    )


def _omniglot_split(variant: str, class_names: Sequence[str]) -> Mapping[str, Sequence[str]]:
    if not class_names:
        return {name: benchmarks.split_table("omniglot_vinyals")[name] for name in META_SPLITS if variant == "full"}
    ids = {name: omniglot.split_classes(class_names, variant, name) for name in META_SPLITS}
    return {name: [class_names[i] for i in each] for name, each in ids.items()}


def _load_omniglot(root: str | os.PathLike[str], variant: str | None = None, **arguments: Any) -> MetaDataset:
    return helpers.omniglot(root, variant=variant or "full", **arguments)


BENCHMARKS: dict[str, Entry] = {
    benchmark.name: benchmark
    for benchmark in (
        Entry(
            name="omniglot",
            description="handwritten characters, 20 drawings each, 28x28 grey, Lake et al. 2015",
            variants=tuple(omniglot.VARIANTS),
            num_classes=tuple(sum(part.characters for part in parts) for parts in omniglot.VARIANTS.values()),
            build=omniglot.build,
            store_path=omniglot.store_path,
            split=_omniglot_split,
            load=_load_omniglot,
            licence="MIT, as the repository that holds it",
        ),
        _entry(MINI_IMAGENET, helpers.miniimagenet),
        _entry(TIERED_IMAGENET, helpers.tieredimagenet),
        _entry(CIFAR_FS, helpers.cifar_fs),
        _entry(FC_100, helpers.fc100),
        _entry(CUB_200, helpers.cub),
        _entry(DOUBLE_MNIST, helpers.doublemnist),
        _entry(TRIPLE_MNIST, helpers.triplemnist),
        _entry(LETTER, helpers.letter),
        _entry(PLANTS_MARGIN, helpers.plants_margin),
        _entry(PLANTS_SHAPE, helpers.plants_shape),
        _entry(PLANTS_TEXTURE, helpers.plants_texture),
        _entry(BACH, helpers.bach),
    )
}
