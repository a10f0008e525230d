"""The paper's short interface: one call from a folder to a meta-dataset with support and query sets."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

from metabridge.datasets.cifar import CIFARFS, FC100
from metabridge.datasets.cub import CUB
from metabridge.datasets.miniimagenet import MiniImagenet
from metabridge.datasets.multimnist import DoubleMNIST, TripleMNIST
from metabridge.datasets.omniglot import Omniglot
from metabridge.datasets.tabular import Bach, Letter, PlantsMargin, PlantsShape, PlantsTexture
from metabridge.datasets.tieredimagenet import TieredImagenet
from metabridge.metadatasets import CombinationMetaDataset, resolve_meta_split
from metabridge.splitters import ClassSplitter
from metabridge.transforms import Categorical, Rotation

__all__ = [
    "bach",
    "cifar_fs",
    "cub",
    "doublemnist",
    "fc100",
    "letter",
    "miniimagenet",
    "omniglot",
    "plants_margin",
    "plants_shape",
    "plants_texture",
    "tieredimagenet",
    "triplemnist",
]

D = TypeVar("D", bound=CombinationMetaDataset)


def omniglot(
    folder: str | os.PathLike[str],
    shots: int,
    ways: int,
    shuffle: bool = True,
    test_shots: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> Omniglot:
    """Omniglot with a support set `"train"` and a query set `"test"` of every class, and permuted labels.

    Meta-train characters are also turned by 90, 180 and 270 degrees, each turn being a new class; meta-val
    and meta-test characters are not. Torchmeta turns them in every meta-split, so that its meta-test tasks
    hold turned characters too: for those pass `class_augmentations=[Rotation([90, 180, 270])]` there.

    Args:
        folder: folder with the built benchmarks.
        shots: support examples per class.
        ways: classes per task.
        shuffle: draw the examples at random.
        test_shots: query examples per class; `None` means as many as `shots`.
        seed: seed of the episodes.
        **kwargs: further arguments of `Omniglot`: `meta_train=True`, `variant="small1"`, `download=True`, ….
            `target_transform` and `class_augmentations` replace the defaults described above.

    Raises:
        ValueError: if `num_classes_per_task` is given and is not `ways`; and whatever `Omniglot` raises.
    """
    if _meta_split(kwargs) == "train":
        kwargs.setdefault("class_augmentations", [Rotation([90, 180, 270])])
    return _helped(Omniglot, folder, shots, ways, shuffle, test_shots, seed, kwargs)


def miniimagenet(
    folder: str | os.PathLike[str],
    shots: int,
    ways: int,
    shuffle: bool = True,
    test_shots: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> MiniImagenet:
    """Mini-ImageNet with a support set `"train"` and a query set `"test"` of every class, and permuted labels.

    Arguments and errors are those of `omniglot`, with the further ones of `MiniImagenet`; no class is augmented.
    """
    return _helped(MiniImagenet, folder, shots, ways, shuffle, test_shots, seed, kwargs)


def cifar_fs(
    folder: str | os.PathLike[str],
    shots: int,
    ways: int,
    shuffle: bool = True,
    test_shots: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> CIFARFS:
    """CIFAR-FS with a support set `"train"` and a query set `"test"` of every class, and permuted labels.

    Arguments and errors are those of `omniglot`, with the further ones of `CIFARFS`; no class is augmented.
    """
    return _helped(CIFARFS, folder, shots, ways, shuffle, test_shots, seed, kwargs)


def fc100(
    folder: str | os.PathLike[str],
    shots: int,
    ways: int,
    shuffle: bool = True,
    test_shots: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> FC100:
    """FC100 with a support set `"train"` and a query set `"test"` of every class, and permuted labels.

    Arguments and errors are those of `omniglot`, with the further ones of `FC100`; no class is augmented.
    """
    return _helped(FC100, folder, shots, ways, shuffle, test_shots, seed, kwargs)


def cub(
    folder: str | os.PathLike[str],
    shots: int,
    ways: int,
    shuffle: bool = True,
    test_shots: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> CUB:
    """Caltech-UCSD Birds with a support set `"train"` and a query set `"test"` of every class, and permuted labels.

    Arguments and errors are those of `omniglot`, with the further ones of `CUB`; no class is augmented.
    """
    return _helped(CUB, folder, shots, ways, shuffle, test_shots, seed, kwargs)


def doublemnist(
    folder: str | os.PathLike[str],
    shots: int,
    ways: int,
    shuffle: bool = True,
    test_shots: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> DoubleMNIST:
    """Double MNIST with a support set `"train"` and a query set `"test"` of every class, and permuted labels.

    Arguments and errors are those of `omniglot`, with the further ones of `DoubleMNIST`; no class is augmented.
    """
    return _helped(DoubleMNIST, folder, shots, ways, shuffle, test_shots, seed, kwargs)


def triplemnist(
    folder: str | os.PathLike[str],
    shots: int,
    ways: int,
    shuffle: bool = True,
    test_shots: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> TripleMNIST:
    """Triple MNIST with a support set `"train"` and a query set `"test"` of every class, and permuted labels.

    Arguments and errors are those of `omniglot`, with the further ones of `TripleMNIST`; no class is augmented.
    """
    return _helped(TripleMNIST, folder, shots, ways, shuffle, test_shots, seed, kwargs)


def letter(
    folder: str | os.PathLike[str],
    shots: int,
    ways: int,
    shuffle: bool = True,
    test_shots: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> Letter:
    """Letter with a support set `"train"` and a query set `"test"` of every class, and permuted labels.

    Arguments and errors are those of `omniglot`, with the further ones of `Letter`; no class is augmented.
    """
    return _helped(Letter, folder, shots, ways, shuffle, test_shots, seed, kwargs)


def plants_margin(
    folder: str | os.PathLike[str],
    shots: int,
    ways: int,
    shuffle: bool = True,
    test_shots: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> PlantsMargin:
    """Plants (margin) with a support set `"train"` and a query set `"test"` of every class, and permuted labels.

    Arguments and errors are those of `omniglot`, with the further ones of `PlantsMargin`; no class is augmented.
    """
    return _helped(PlantsMargin, folder, shots, ways, shuffle, test_shots, seed, kwargs)


def plants_shape(
    folder: str | os.PathLike[str],
    shots: int,
    ways: int,
    shuffle: bool = True,
    test_shots: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> PlantsShape:
    """Plants (shape) with a support set `"train"` and a query set `"test"` of every class, and permuted labels.

    Arguments and errors are those of `omniglot`, with the further ones of `PlantsShape`; no class is augmented.
    """
    return _helped(PlantsShape, folder, shots, ways, shuffle, test_shots, seed, kwargs)


def plants_texture(
    folder: str | os.PathLike[str],
    shots: int,
    ways: int,
    shuffle: bool = True,
    test_shots: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> PlantsTexture:
    """Plants (texture) with a support set `"train"` and a query set `"test"` of every class, and permuted labels.

    Arguments and errors are those of `omniglot`, with the further ones of `PlantsTexture`; no class is augmented.
    """
    return _helped(PlantsTexture, folder, shots, ways, shuffle, test_shots, seed, kwargs)


def bach(
    folder: str | os.PathLike[str],
    shots: int,
    ways: int,
    shuffle: bool = True,
    test_shots: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> Bach:
    """Bach with a support set `"train"` and a query set `"test"` of every class, and permuted labels.

    Arguments and errors are those of `omniglot`, with the further ones of `Bach`; no class is augmented. Chords with
    fewer examples than a task takes are left out, unless `min_num_samples_per_class` says otherwise.
    """
    kwargs.setdefault("min_num_samples_per_class", shots + (shots if test_shots is None else test_shots))
    return _helped(Bach, folder, shots, ways, shuffle, test_shots, seed, kwargs)


def tieredimagenet(
    folder: str | os.PathLike[str],
    shots: int,
    ways: int,
    shuffle: bool = True,
    test_shots: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> TieredImagenet:
    """Tiered-ImageNet with a support set `"train"` and a query set `"test"` of every class, and permuted labels.

    Arguments and errors are those of `omniglot`, with the further ones of `TieredImagenet`; no class is augmented.
    """
    return _helped(TieredImagenet, folder, shots, ways, shuffle, test_shots, seed, kwargs)


def _helped(
    meta_dataset: Callable[..., D],
    folder: str | os.PathLike[str],
    shots: int,
    ways: int,
    shuffle: bool,
    test_shots: int | None,
    seed: int | None,
    kwargs: dict[str, Any],
) -> D:
    if kwargs.setdefault("num_classes_per_task", ways) != ways:
        raise ValueError(
            f"`num_classes_per_task` must equal `ways`, which is {ways}, "
            f"got {kwargs['num_classes_per_task']}; leave it out."
        )
    if "dataset_transform" in kwargs:
        raise ValueError(
            "`dataset_transform` must be left out: a helper attaches a splitter of `shots` and `test_shots`; "
            "for another one use the class itself."
        )
    kwargs.setdefault("target_transform", Categorical(ways))
    dataset = meta_dataset(folder, **kwargs)
    ClassSplitter(
        dataset,
        shuffle=shuffle,
        num_train_per_class=shots,
        num_test_per_class=shots if test_shots is None else test_shots,
    )
    if seed is not None:
        dataset.seed(seed)
    return dataset


def _meta_split(arguments: dict[str, Any]) -> str:
    names = ("meta_train", "meta_val", "meta_test", "meta_split")
    return resolve_meta_split(**{name: arguments[name] for name in names if name in arguments})
