"""Data of one's own in one call: from a folder of images, a store or a class source to meta-datasets."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from metabridge.checks import check_count, require
from metabridge.episodes.metadatasets import META_SPLITS, CombinationMetaDataset
from metabridge.episodes.splitters import ClassSplitter
from metabridge.sources import ClassSource, HDF5Source, ImageFolderSource, split_classes
from metabridge.sources.splits import USUAL_FRACTIONS
from metabridge.transforms import Categorical

__all__ = ["few_shot"]

Data = ClassSource | str | os.PathLike[str]
"""A class source, a folder with one folder of images for each class, or the file of a store."""


def few_shot(
    source: Data | Mapping[str, Data],
    ways: int,
    shots: int,
    test_shots: int | None = None,
    *,
    fractions: Mapping[str, float] | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    split_seed: int = 0,
    resize: int | tuple[int, int] | None = None,
    mode: str | None = None,
    shuffle: bool = True,
    seed: int | None = None,
    **kwargs: Any,
) -> dict[str, CombinationMetaDataset]:
    """The meta-datasets of one's own data, with support and query sets and permuted labels.

        parts = few_shot("photos", ways=5, shots=1, test_shots=15, resize=84, mode="RGB")
        parts["train"], parts["val"], parts["test"]         # no class is in two of them

    Images of a folder are decoded whenever they are drawn. `metabridge.sources.in_memory` and `save_source` decode a
    source once.

    Args:
        source: a class source, a folder with one folder of images for each class, or the file of a store. If the
            meta-splits are made already, a mapping from `"train"`, `"val"` and `"test"` to one of these.
        ways: classes per task.
        shots: support examples per class.
        test_shots: query examples per class; `None` means as many as `shots`.
        fractions: meta-split → share of the classes, as in `split_classes`; unless given, 60 % of the classes are
            meta-train, 20 % meta-val and 20 % meta-test.
        classes: meta-split → names of its classes, instead of fractions.
        split_seed: which classes the fractions are.
        resize: `(height, width)`, or the side of a square, of images of a folder.
        mode: `"L"`, `"RGB"` or `"RGBA"`, for images of a folder.
        shuffle: draw the examples at random.
        seed: seed of the episodes.
        **kwargs: further arguments of `CombinationMetaDataset`: `transform=[…]`, `class_augmentations=[…]`, ….
            `target_transform` replaces the permuted labels.

    Returns:
        Meta-split → its meta-dataset, in the order of `fractions`, `classes` or the mapping.

    Raises:
        FileNotFoundError: if there is no such folder or file.
        TypeError: if `source` is none of these, for an argument that `CombinationMetaDataset` has not, or for both
            `fractions` and `classes`.
        ValueError: for counts below 1, fewer classes in a meta-split than `ways`, fewer examples in a class than
            `shots` and `test_shots` together, a meta-split of another name, or choices that `source` leaves no room
            for.
    """
    check_count(ways, "ways", advice="pass for example 5")
    counts = {"train": check_count(shots, "shots", advice="pass for example 5")}
    counts["test"] = counts["train"] if test_shots is None else check_count(test_shots, "test_shots")
    splitter = ClassSplitter(shuffle=shuffle, num_samples_per_class=counts)
    if isinstance(source, Mapping):
        _check_left_out("a mapping of meta-splits", fractions=fractions, classes=classes)
        require(len(source) > 0, "source", "a mapping with at least one meta-split", source)
        parts = {name: _as_source(data, resize, mode) for name, data in source.items()}
    else:
        if fractions is None and classes is None:
            fractions = USUAL_FRACTIONS
        parts = split_classes(_as_source(source, resize, mode), classes, fractions, split_seed)
    for name in parts:
        require(name in META_SPLITS, "source", "divided into 'train', 'val' and 'test', or some of these", name)
    sizes = {name: len(part.class_sizes) for name, part in parts.items()}
    if "class_augmentations" not in kwargs:  # which make more classes
        least = f"at most the number of classes in every meta-split, which is {sizes}"
        require(ways <= min(sizes.values()), "ways", least, ways, "ask for fewer, or give other `fractions`")
    kwargs.setdefault("target_transform", Categorical(ways))
    datasets = {
        name: CombinationMetaDataset(part, ways, meta_split=name, dataset_transform=splitter, **kwargs)
        for name, part in parts.items()
    }
    for dataset in datasets.values():
        dataset.seed(seed)
    return datasets


def _as_source(data: Data, resize: int | tuple[int, int] | None, mode: str | None) -> ClassSource:
    """A class source as it is, a folder of images or a store's file as one."""
    if isinstance(data, (str, os.PathLike)) and not Path(data).is_file():
        return ImageFolderSource(data, resize, mode)
    _check_left_out("a store or a class source, whose examples have a size", resize=resize, mode=mode)
    if isinstance(data, (str, os.PathLike)):
        return HDF5Source(data)
    if not hasattr(data, "class_names"):
        raise TypeError(
            f"`source` must be a class source, a folder of images or the file of a store, got {type(data).__name__}; "
            "make a source of arrays with metabridge.sources.ArraySource.from_labels(examples, labels)."
        )
    return data


def _check_left_out(source: str, **choices: object) -> None:
    """Raise `ValueError` for a choice that this kind of source leaves no room for."""
    for name, value in choices.items():
        require(value is None, name, f"left out where `source` is {source}", value)
