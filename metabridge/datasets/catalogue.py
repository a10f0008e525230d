"""The benchmarks that can be built, by name, and the helper that loads each."""

import os
from collections.abc import Callable, Mapping
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

__all__ = ["BENCHMARKS", "load"]

_TABLE: tuple[tuple[Benchmark, Callable[..., MetaDataset]], ...] = (
    (OMNIGLOT, helpers.omniglot),
    (MINI_IMAGENET, helpers.miniimagenet),
    (TIERED_IMAGENET, helpers.tieredimagenet),
    (CIFAR_FS, helpers.cifar_fs),
    (FC_100, helpers.fc100),
    (CUB_200, helpers.cub),
    (DOUBLE_MNIST, helpers.doublemnist),
    (TRIPLE_MNIST, helpers.triplemnist),
    (PASCAL_5I, helpers.pascal5i),
    (LETTER, helpers.letter),
    (PLANTS_MARGIN, helpers.plants_margin),
    (PLANTS_SHAPE, helpers.plants_shape),
    (PLANTS_TEXTURE, helpers.plants_texture),
    (BACH, helpers.bach),
)
BENCHMARKS = {benchmark.name: benchmark for benchmark, _ in _TABLE}
_HELPERS = {benchmark.name: helper for benchmark, helper in _TABLE}
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
    return _HELPERS[benchmark.name](root, ways=benchmark.ways if ways is None else ways, **arguments)
