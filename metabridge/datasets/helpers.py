"""The paper's short interface: one call from a folder to a meta-dataset with support and query sets."""

import os
from typing import Any

from metabridge.datasets.omniglot import Omniglot
from metabridge.metadatasets import resolve_meta_split
from metabridge.splitters import ClassSplitter
from metabridge.transforms import Categorical, Rotation

__all__ = ["omniglot"]


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
    if kwargs.setdefault("num_classes_per_task", ways) != ways:
        raise ValueError(
            f"`num_classes_per_task` must equal `ways`, which is {ways}, "
            f"got {kwargs['num_classes_per_task']}; leave it out."
        )
    if _meta_split(kwargs) == "train":
        kwargs.setdefault("class_augmentations", [Rotation([90, 180, 270])])
    kwargs.setdefault("target_transform", Categorical(ways))
    dataset = Omniglot(folder, **kwargs)
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
