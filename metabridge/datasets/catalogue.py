"""The catalogue: every toy problem and every stored benchmark by name, and the helper that loads each."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from metabridge.checks import check_choice
from metabridge.datasets import helpers
from metabridge.datasets.benchmarks import Benchmark
from metabridge.datasets.cifar import CIFAR_FS, FC_100
from metabridge.datasets.cub import CUB_200
from metabridge.datasets.miniimagenet import MINI_IMAGENET
from metabridge.datasets.multimnist import DOUBLE_MNIST, TRIPLE_MNIST
from metabridge.datasets.omniglot import OMNIGLOT
from metabridge.datasets.pascal5i import FOLDS, PASCAL_5I
from metabridge.datasets.tabular import BACH, LETTER, PLANTS_MARGIN, PLANTS_SHAPE, PLANTS_TEXTURE
from metabridge.datasets.tieredimagenet import TIERED_IMAGENET
from metabridge.episodes.metadatasets import MetaDataset
from metabridge.toy import helpers as toys

__all__ = ["BENCHMARKS", "CATALOGUE", "TOYS", "Entry", "load", "load_toy"]


@dataclass(frozen=True)
class Entry:
    """One family of tasks that the library offers by name.

    Attributes:
        name: on the command line and in folder names.
        helper: makes its meta-dataset, with support and query sets.
        description: a few words and the paper, for a list.
        kind: `"regression"`, `"classification"` or `"segmentation"`.
        benchmark: how it is built and stored; `None` for a toy problem, which is computed.
    """

    name: str
    helper: Callable[..., MetaDataset]
    description: str
    kind: str
    benchmark: Benchmark | None = None


def _toy(helper: Callable[..., MetaDataset], description: str) -> Entry:
    return Entry(helper.__name__, helper, description, "regression")


def _stored(benchmark: Benchmark, helper: Callable[..., MetaDataset], kind: str = "classification") -> Entry:
    return Entry(benchmark.name, helper, benchmark.description, kind, benchmark)


_ENTRIES = (
    _toy(toys.sinusoid, "regression, Finn et al. 2017"),
    _toy(toys.harmonic, "two sines, Lacoste et al. 2018"),
    _toy(toys.sinusoid_and_line, "sines and lines, Finn et al. 2018"),
    _stored(OMNIGLOT, helpers.omniglot),
    _stored(MINI_IMAGENET, helpers.miniimagenet),
    _stored(TIERED_IMAGENET, helpers.tieredimagenet),
    _stored(CIFAR_FS, helpers.cifar_fs),
    _stored(FC_100, helpers.fc100),
    _stored(CUB_200, helpers.cub),
    _stored(DOUBLE_MNIST, helpers.doublemnist),
    _stored(TRIPLE_MNIST, helpers.triplemnist),
    _stored(PASCAL_5I, helpers.pascal5i, "segmentation"),
    _stored(LETTER, helpers.letter),
    _stored(PLANTS_MARGIN, helpers.plants_margin),
    _stored(PLANTS_SHAPE, helpers.plants_shape),
    _stored(PLANTS_TEXTURE, helpers.plants_texture),
    _stored(BACH, helpers.bach),
)
CATALOGUE = {entry.name: entry for entry in _ENTRIES}
"""Name → family of tasks: all that the library offers. A new one is one line above."""

BENCHMARKS = {entry.name: entry.benchmark for entry in _ENTRIES if entry.benchmark is not None}
"""Name → benchmark, of those that are stored."""

TOYS = {entry.name: entry for entry in _ENTRIES if entry.benchmark is None}
"""Name → entry, of those that are computed."""

_SPLIT_ARGUMENTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "omniglot": {
        "vinyals": {"use_vinyals_split": True},
        "background/evaluation": {"use_vinyals_split": False},
    },
    "pascal5i": {f"fold {fold}": {"fold": fold} for fold in range(FOLDS)},
}
"""Benchmark with several splits → split → how its helper is asked for it."""


def load(
    benchmark: Benchmark,
    root: str | os.PathLike[str],
    variant: str | None = None,
    ways: int | None = None,
    split: str | None = None,
    **arguments: Any,
) -> MetaDataset:
    """A benchmark's meta-dataset with support and query sets, by its helper.

    Args:
        benchmark: one of `BENCHMARKS`.
        root: folder with the built benchmarks.
        variant: which of its variants; `None` means the first.
        ways: classes per task; `None` means the benchmark's own number.
        split: which of the variant's splits; `None` means the first.
        **arguments: further ones of the helper, `shots` and a meta-split among them.

    Raises:
        ValueError: for an unknown variant or split; and whatever the helper raises.
    """
    variant = benchmark.variant_name(variant)
    if split is not None:
        splits = benchmark.variants[variant].splits
        check_choice(split, "split", splits, owner=f"{benchmark.name} {variant}")
        if len(splits) > 1:
            arguments |= _SPLIT_ARGUMENTS[benchmark.name][split]
    if len(benchmark.variants) > 1:
        arguments["variant"] = variant
    return CATALOGUE[benchmark.name].helper(root, ways=benchmark.ways if ways is None else ways, **arguments)


def load_toy(name: str, shots: int, test_shots: int, meta_split: str, seed: int | None = None) -> MetaDataset:
    """The meta-dataset of the toy problem `name`, one of `TOYS`; arguments as in `metabridge.toy.helpers.sinusoid`."""
    return TOYS[name].helper(shots, test_shots=test_shots, seed=seed, meta_split=meta_split)
