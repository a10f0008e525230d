"""The paper's short interface: one call from a folder to a meta-dataset with support and query sets."""

import os
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from metabridge.checks import check_count
from metabridge.datasets.benchmarks import StoredMetaDataset
from metabridge.datasets.cifar import CIFARFS, FC100
from metabridge.datasets.cub import CUB
from metabridge.datasets.miniimagenet import MiniImagenet
from metabridge.datasets.multimnist import DoubleMNIST, TripleMNIST
from metabridge.datasets.omniglot import Omniglot
from metabridge.datasets.pascal5i import Pascal5i
from metabridge.datasets.tabular import Bach, Letter, PlantsMargin, PlantsShape, PlantsTexture
from metabridge.datasets.tieredimagenet import TieredImagenet
from metabridge.episodes.metadatasets import resolve_meta_split
from metabridge.episodes.splitters import ClassSplitter, Splitter
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
    "pascal5i",
    "plants_margin",
    "plants_shape",
    "plants_texture",
    "tieredimagenet",
    "triplemnist",
]

D = TypeVar("D", bound=StoredMetaDataset)
D_co = TypeVar("D_co", bound=StoredMetaDataset, covariant=True)


class Helper(Protocol[D_co]):
    """The arguments of all helpers; `help(miniimagenet)` explains them."""

    def __call__(
        self,
        folder: str | os.PathLike[str],
        shots: int,
        ways: int,
        shuffle: bool = True,
        test_shots: int | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> D_co: ...


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
    return _helped(Omniglot, folder, ways, _splitter(shots, test_shots, shuffle), seed, kwargs)


def _helper(name: str, meta_dataset: type[D]) -> Helper[D]:
    """The helper of a benchmark that needs no more than a splitter and permuted labels."""

    def helper(
        folder: str | os.PathLike[str],
        shots: int,
        ways: int,
        shuffle: bool = True,
        test_shots: int | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> D:
        return _helped(meta_dataset, folder, ways, _splitter(shots, test_shots, shuffle), seed, kwargs)

    helper.__name__ = helper.__qualname__ = name
    helper.__annotations__["return"] = meta_dataset
    summary = (meta_dataset.__doc__ or "").partition("\n")[0]  # python -OO leaves none
    helper.__doc__ = _DOCUMENTATION.format(summary=summary, meta_dataset=meta_dataset.__name__)
    return helper


_DOCUMENTATION = """{summary}

With a support set `"train"` and a query set `"test"` of every class, and permuted labels. No class is augmented.

Args:
    folder: folder with the built benchmarks.
    shots: support examples per class.
    ways: classes per task.
    shuffle: draw the examples at random.
    test_shots: query examples per class; `None` means as many as `shots`.
    seed: seed of the episodes.
    **kwargs: further arguments of `{meta_dataset}`: `meta_train=True`, `download=True`, `transform=[…]`, ….
        `target_transform` replaces the permuted labels.

Raises:
    ValueError: if `num_classes_per_task` is given and is not `ways`; and whatever `{meta_dataset}` raises.
"""

miniimagenet = _helper("miniimagenet", MiniImagenet)
tieredimagenet = _helper("tieredimagenet", TieredImagenet)
cifar_fs = _helper("cifar_fs", CIFARFS)
fc100 = _helper("fc100", FC100)
cub = _helper("cub", CUB)
doublemnist = _helper("doublemnist", DoubleMNIST)
triplemnist = _helper("triplemnist", TripleMNIST)
letter = _helper("letter", Letter)
plants_margin = _helper("plants_margin", PlantsMargin)
plants_shape = _helper("plants_shape", PlantsShape)
plants_texture = _helper("plants_texture", PlantsTexture)


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

    Arguments and errors are those of `letter`, with the further ones of `Bach`. Chords with fewer examples than a task
    takes are left out, unless `min_num_samples_per_class` says otherwise.
    """
    splitter = _splitter(shots, test_shots, shuffle)
    kwargs.setdefault("min_num_samples_per_class", splitter.examples_per_class)
    return _helped(Bach, folder, ways, splitter, seed, kwargs)


def pascal5i(
    folder: str | os.PathLike[str],
    shots: int,
    ways: int = 1,
    shuffle: bool = True,
    test_shots: int | None = None,
    seed: int | None = None,
    **kwargs: Any,
) -> Pascal5i:
    """Pascal-5i with a support set `"train"` and a query set `"test"` of images and masks; one class a task.

    Torchmeta resizes to 500 pixels; here images have the size they were built with, 321 unless `variant` says 400.

    Args:
        folder: folder with the built benchmarks.
        shots: support examples.
        ways: 1.
        shuffle: draw the examples at random.
        test_shots: query examples; `None` means as many as `shots`.
        seed: seed of the episodes.
        **kwargs: further arguments of `Pascal5i`: `meta_train=True`, `fold=2`, `download=True`, ….

    Raises:
        ValueError: if `num_classes_per_task` is given and is not `ways`; and whatever `Pascal5i` raises.
    """
    kwargs.setdefault("target_transform", None)
    return _helped(Pascal5i, folder, ways, _splitter(shots, test_shots, shuffle), seed, kwargs)


def _splitter(shots: int, test_shots: int | None, shuffle: bool) -> Splitter:
    shots = _positive("shots", shots)
    queries = shots if test_shots is None else _positive("test_shots", test_shots)
    return ClassSplitter(shuffle=shuffle, num_samples_per_class={"train": shots, "test": queries})


def _positive(name: str, number: int) -> int:
    return check_count(number, name, advice="pass for example 5")


def _helped(
    meta_dataset: Callable[..., D],
    folder: str | os.PathLike[str],
    ways: int,
    splitter: Splitter,
    seed: int | None,
    kwargs: dict[str, Any],
) -> D:
    ways = _positive("ways", ways)
    if kwargs.get("num_classes_per_task", ways) != ways:
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
    dataset = meta_dataset(folder, **kwargs | {"num_classes_per_task": ways, "dataset_transform": splitter})
    if seed is not None:
        dataset.seed(seed)
    return dataset


def _meta_split(arguments: dict[str, Any]) -> str:
    names = ("meta_train", "meta_val", "meta_test", "meta_split")
    return resolve_meta_split(**{name: arguments[name] for name in names if name in arguments})
