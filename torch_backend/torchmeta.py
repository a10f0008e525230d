"""Torchmeta's names in one place, for code that was written for it.

`from torchmeta.<any module> import NAME` becomes `from torch_backend.torchmeta import NAME`. Names that mean the same
here are those of the other modules, and new code takes them from there. Defined here is what has another shape in this
library: datasets that say themselves how a task is made, tasks one by one, and functions over dictionaries of
parameters. `docs/from-torchmeta.md` lists what differs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch.utils.data
from torch import Tensor

import metabridge
import metabridge.toy
from metabridge import ClassSplitter, Splitter, WeightedClassSplitter
from metabridge.checks import check_mapping
from metabridge.datasets import (
    CIFARFS,
    CUB,
    FC100,
    Bach,
    DoubleMNIST,
    Letter,
    MiniImagenet,
    Omniglot,
    Pascal5i,
    PlantsMargin,
    PlantsShape,
    PlantsTexture,
    TieredImagenet,
    TripleMNIST,
)
from metabridge.datasets.helpers import (
    bach,
    cifar_fs,
    cub,
    doublemnist,
    fc100,
    letter,
    miniimagenet,
    omniglot,
    pascal5i,
    plants_margin,
    plants_shape,
    plants_texture,
    tieredimagenet,
    triplemnist,
)
from metabridge.episodes.batches import WHOLE, EpisodeBatch
from metabridge.episodes.metadatasets import resolve_meta_split
from metabridge.episodes.plans import EpisodePlan
from metabridge.episodes.sampling import ClassTable, SamplingRule
from metabridge.sources import ClassDatasetSource, ClassSource
from metabridge.toy.helpers import harmonic, sinusoid
from metabridge.transforms import Categorical, ClassAugmentation, HorizontalFlip, Rotation, VerticalFlip
from torch_backend.adaptation import gradient_update_parameters
from torch_backend.data import BatchMetaDataLoader
from torch_backend.functional import (
    get_num_samples,
    get_prototypes,
    hardness_metric,
    matching_log_probas,
    matching_loss,
    matching_probas,
    pairwise_cosine_similarity,
    prototypical_loss,
    ridge_regression,
)
from torch_backend.modules import (
    DataParallel,
    MetaBatchNorm1d,
    MetaBatchNorm2d,
    MetaBatchNorm3d,
    MetaBilinear,
    MetaConv1d,
    MetaConv2d,
    MetaConv3d,
    MetaEmbedding,
    MetaEmbeddingBag,
    MetaLayerNorm,
    MetaLinear,
    MetaModule,
    MetaMultiheadAttention,
    MetaSequential,
)

__all__ = [
    "Bach",
    "BatchMetaDataLoader",
    "CIFARFS",
    "CUB",
    "Categorical",
    "ClassDataset",
    "ClassSplitter",
    "CombinationMetaDataset",
    "DataParallel",
    "Dataset",
    "DoubleMNIST",
    "FC100",
    "Harmonic",
    "HorizontalFlip",
    "Letter",
    "MetaBatchNorm1d",
    "MetaBatchNorm2d",
    "MetaBatchNorm3d",
    "MetaBilinear",
    "MetaConv1d",
    "MetaConv2d",
    "MetaConv3d",
    "MetaDataLoader",
    "MetaDataset",
    "MetaEmbedding",
    "MetaEmbeddingBag",
    "MetaLayerNorm",
    "MetaLinear",
    "MetaModule",
    "MetaMultiheadAttention",
    "MetaSequential",
    "MiniImagenet",
    "Omniglot",
    "Pascal5i",
    "PlantsMargin",
    "PlantsShape",
    "PlantsTexture",
    "Rotation",
    "Sinusoid",
    "SinusoidAndLine",
    "Task",
    "TieredImagenet",
    "TripleMNIST",
    "VerticalFlip",
    "WeightedClassSplitter",
    "bach",
    "cifar_fs",
    "cub",
    "doublemnist",
    "fc100",
    "get_num_samples",
    "get_prototypes",
    "get_subdict",
    "gradient_update_parameters",
    "hardness_metric",
    "harmonic",
    "letter",
    "matching_log_probas",
    "matching_loss",
    "matching_probas",
    "miniimagenet",
    "omniglot",
    "pairwise_cosine_similarity",
    "pascal5i",
    "plants_margin",
    "plants_shape",
    "plants_texture",
    "prototypical_loss",
    "ridge_regression",
    "sinusoid",
    "tieredimagenet",
    "triplemnist",
]

V = TypeVar("V")

Arrays = tuple[npt.NDArray[np.float32], npt.NDArray[Any]]


# Functions


def get_subdict(dictionary: Mapping[str, V] | None, key: str | None = None) -> dict[str, V] | None:
    """The entries of `dictionary` whose names begin with `key.`, without that beginning; all without a `key`.

    Where the submodule has parameters and none is given, its call says which is missing.

    >>> get_subdict({"features.weight": 1, "head.weight": 2}, "head")
    {'weight': 2}
    """
    if dictionary is None:
        return None
    check_mapping(dictionary, "dictionary")
    beginning = f"{key}." if key else ""
    return {name[len(beginning) :]: value for name, value in dictionary.items() if name.startswith(beginning)}


# One's own classes


class Dataset(torch.utils.data.Dataset[Any]):
    """The examples of one class, or of one task; a subclass defines `__len__` and `__getitem__`.

    Attributes:
        index: the number of the class or task.
        transform: what the subclass does to an input, or `None`.
        target_transform: what it does to a target, or `None`.
    """

    def __init__(
        self,
        index: Any,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        self.index = index
        self.transform = transform
        self.target_transform = target_transform

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__().")

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__(index).")


class ClassDataset(ABC):
    """The classes of one meta-split: a subclass says how many there are, and makes the `Dataset` of each.

    Args:
        meta_train: the classes are for meta-training; one of these three, or `meta_split`, must be given.
        meta_val: they are for meta-validation.
        meta_test: they are for meta-testing.
        meta_split: `"train"`, `"val"` or `"test"`, instead of the three flags.
        class_augmentations: augmentations of which each makes a new class of every class. `CombinationMetaDataset`
            makes these classes; `self[i]` is asked for i below `num_classes` alone.

    Raises:
        ValueError: unless one meta-split is named.
    """

    def __init__(
        self,
        meta_train: bool = False,
        meta_val: bool = False,
        meta_test: bool = False,
        meta_split: str | None = None,
        class_augmentations: Sequence[ClassAugmentation] | None = None,
    ) -> None:
        self.meta_split = resolve_meta_split(meta_train, meta_val, meta_test, meta_split)
        self.class_augmentations = list(class_augmentations or ())

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes, without augmented ones."""

    @abstractmethod
    def __getitem__(self, index: int) -> Any:
        """The examples of class `index`: a map-style dataset of pairs (image, target)."""

    def __len__(self) -> int:
        return self.num_classes

    def get_class_augmentation(self, index: int) -> ClassAugmentation | None:
        """`None`: augmented classes are made by the meta-dataset."""
        return None

    def get_transform(self, index: int, transform: V | None = None) -> V | None:
        """The transform of the inputs of class `index`: the given one."""
        return transform

    def get_target_transform(self, index: int) -> Callable[[Any], Any] | None:
        """`None`: targets are the labels of the task."""
        return None


class CombinationMetaDataset(metabridge.CombinationMetaDataset):
    """`metabridge.CombinationMetaDataset` with Torchmeta's arguments, over a `ClassDataset` or a class source.

    Args:
        dataset: the classes. Meta-split and class augmentations are its own.
        num_classes_per_task: N.
        target_transform: `Categorical(N)` for permuted labels, `None` for a class's position in the tuple.
        dataset_transform: a splitter.

    Raises:
        TypeError, ValueError: as `ClassDatasetSource` and `metabridge.CombinationMetaDataset`.
    """

    def __init__(
        self,
        dataset: Any,
        num_classes_per_task: int,
        target_transform: Categorical | None = None,
        dataset_transform: Splitter | None = None,
    ) -> None:
        self.dataset = dataset
        source: ClassSource = dataset if hasattr(dataset, "class_sizes") else ClassDatasetSource(dataset)
        super().__init__(
            source,
            num_classes_per_task,
            getattr(dataset, "meta_split", "train"),
            target_transform,
            dataset_transform,
            getattr(dataset, "class_augmentations", None),
        )


# One's own tasks


class Task(Dataset):
    """The examples of one task; a subclass defines `__len__` and `__getitem__`, which returns (input, target).

    Attributes:
        num_classes: number of ways, or `None` for regression.
    """

    def __init__(
        self,
        index: Any,
        num_classes: int | None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(index, transform, target_transform)
        self.num_classes = num_classes

    def attach(self, splitter: Splitter) -> dict[str, metabridge.Task]:
        """The task divided by `splitter`: split → task; see `metabridge.Task.attach`."""
        return metabridge.Task(self.index, self.num_classes, *_examples(self)).attach(splitter)


class MetaDataset(metabridge.MetaDataset):
    """Tasks that a subclass makes: it defines `__len__` and `self[i]`, a `Task` or a mapping split → `Task`.

    As in Torchmeta, `self[i]` applies `self.dataset_transform`. An episode is a task drawn with replacement by (seed,
    index); which examples it has is the subclass's affair, and so is whether they are the same the next time.

    Args:
        meta_train: the tasks are for meta-training; one of these three, or `meta_split`, must be given.
        meta_val: they are for meta-validation.
        meta_test: they are for meta-testing.
        meta_split: `"train"`, `"val"` or `"test"`, instead of the three flags.
        target_transform: for the subclass.
        dataset_transform: a function of a task, such as a splitter, for the subclass.

    Raises:
        ValueError: unless one meta-split is named.
    """

    # Any function, which `__getitem__` applies itself; the core's own are a splitter and a permutation of labels.
    target_transform: Any = None
    dataset_transform: Any = None

    def __init__(
        self,
        meta_train: bool = False,
        meta_val: bool = False,
        meta_test: bool = False,
        meta_split: str | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        dataset_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(resolve_meta_split(meta_train, meta_val, meta_test, meta_split))
        self.target_transform = target_transform
        self.dataset_transform = dataset_transform

    @abstractmethod
    def __len__(self) -> int:
        """Number of tasks."""

    @abstractmethod
    def __getitem__(self, index: int) -> Any:
        """Task number `index`, or its splits."""

    @property
    def num_classes_per_task(self) -> int | None:
        """`None`, unless a subclass knows better."""
        return None

    @property
    def num_tasks(self) -> int:
        """`len(self)`."""
        return len(self)

    @property
    def description(self) -> dict[str, Any]:
        """The class, the meta-split and the number of tasks; what a task is stands in the subclass's code."""
        kind = type(self)
        return {
            "kind": f"{kind.__module__}.{kind.__qualname__}",
            "meta_split": self.meta_split,
            "num_tasks": self.num_tasks,
        }

    def check_examples_per_class(self, count: int) -> None:
        """Nothing is known before a task is made."""

    def attach(self, splitter: Splitter) -> "MetaDataset":
        """Make `splitter` the function that `self[i]` applies."""
        self.dataset_transform = splitter
        return self

    def plan(self, seed: int, indices: npt.ArrayLike) -> EpisodePlan:
        """Plan the episodes at `indices` of the stream of `seed`: the number of a task each."""
        return _ONE.draw(self.episode_key(seed), indices, self._table)

    def task_plan(self, index: int) -> EpisodePlan:
        """Plan task number `index`."""
        return _ONE.draw_task(self.task_key(index), (index,), self._table)

    @property
    def _table(self) -> ClassTable:
        return ClassTable(np.ones(1, dtype=np.int64), self.num_tasks)

    def gather(self, plan: EpisodePlan) -> EpisodeBatch:
        """Make the tasks a plan names, and stack them.

        Raises:
            ValueError: if the tasks have different numbers of examples.
        """
        tasks = [self[int(index)] for index in plan.classes[:, 0]]
        splits = [task if isinstance(task, Mapping) else {WHOLE: task} for task in tasks]
        return EpisodeBatch(plan, {name: _stacked([each[name] for each in splits]) for name in splits[0]})

    def sample_task(self) -> Any:
        """The next task of the dataset's own stream, made by `self[i]`."""
        self._sampled += 1
        return self[int(self.plan(self.current_seed, [self._sampled - 1]).classes[0, 0])]

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))


_ONE = SamplingRule(1, Splitter(((WHOLE, 1),), shuffle=False))


def _examples(task: Any) -> Arrays:
    """Inputs and targets of a task, in the core's layout."""
    pairs = [task[position] for position in range(len(task))]
    targets = np.stack([_array(target) for _, target in pairs])
    is_label = np.issubdtype(targets.dtype, np.integer)
    inputs = np.stack([_array(value) for value, _ in pairs]).astype(np.float32)
    return inputs, targets.astype(np.int64 if is_label else np.float32)


def _array(value: Any) -> npt.NDArray[Any]:
    if isinstance(value, Tensor) and value.ndim == 3:
        return value.numpy(force=True).transpose(1, 2, 0)
    return value.numpy(force=True) if isinstance(value, Tensor) else np.asarray(value)


def _stacked(tasks: Sequence[Any]) -> Arrays:
    if len({len(task) for task in tasks}) != 1:
        sizes = sorted({len(task) for task in tasks})
        raise ValueError(
            f"tasks of a batch must have equally many examples, got {sizes[0]} to {sizes[-1]}; give the meta-dataset a "
            "ClassSplitter as `dataset_transform`, or load with batch_size=1."
        )
    inputs, targets = zip(*map(_examples, tasks), strict=True)
    return np.stack(inputs), np.stack(targets)


# Toys with transforms


class _Transformed(metabridge.toy.ToyMetaDataset):
    """A toy with Torchmeta's arguments.

    Args:
        num_samples_per_task: points per episode, to be divided by the splitter.
        num_tasks: number of different tasks; `None` for the toy's own.
        noise_std: standard deviation of Gaussian noise added to the targets, `None` for none.
        transform: a function of every input `(1,)` float32. Its class and `repr` stand for it in the fingerprint.
        target_transform: likewise of every target.
        dataset_transform: a splitter.
        kwargs: further arguments of the toy.
    """

    target_transform: Any = None

    def __init__(
        self,
        num_samples_per_task: int,
        num_tasks: int | None = None,
        noise_std: float | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        dataset_transform: Splitter | None = None,
        **kwargs: Any,
    ) -> None:
        self.transform = transform
        if num_tasks is not None:
            kwargs["num_tasks"] = num_tasks
        super().__init__(num_samples_per_task, noise_std=noise_std, dataset_transform=dataset_transform, **kwargs)
        self.target_transform = target_transform

    @property
    def description(self) -> dict[str, Any]:
        """The toy's description, and the names of the transforms."""
        given = {"transform": self.transform, "target_transform": self.target_transform}
        return {**super().description, **{name: _name(each) for name, each in given.items() if each is not None}}

    def gather(self, plan: EpisodePlan) -> EpisodeBatch:
        """Compute the points a plan names, and transform them one by one."""
        return EpisodeBatch(
            plan,
            {
                name: (_each(self.transform, inputs), _each(self.target_transform, targets))
                for name, (inputs, targets) in super().gather(plan).items()
            },
        )


def _name(function: object) -> str:
    """A function's name, or an object's `repr`, or its class if that is all the `repr` would say besides an address."""
    if hasattr(function, "__qualname__"):
        return f"{function.__module__}.{function.__qualname__}"
    kind = type(function)
    return f"{kind.__module__}.{kind.__qualname__}" if kind.__repr__ is object.__repr__ else repr(function)


def _each(function: Callable[[Any], Any] | None, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    if function is None:
        return values
    found = np.stack([np.asarray(function(value), np.float32) for value in values.reshape(-1, values.shape[-1])])
    return found.reshape(*values.shape[:-1], *found.shape[1:])


class Sinusoid(_Transformed, metabridge.toy.Sinusoid):
    """`metabridge.toy.Sinusoid` with Torchmeta's arguments; `transform` and `target_transform` see all points."""


class Harmonic(_Transformed, metabridge.toy.Harmonic):
    """`metabridge.toy.Harmonic` with Torchmeta's arguments; `transform` and `target_transform` see all points."""


class SinusoidAndLine(_Transformed, metabridge.toy.SinusoidAndLine):
    """`metabridge.toy.SinusoidAndLine` with Torchmeta's arguments, see `Sinusoid`."""


# Tasks one by one


class MetaDataLoader(BatchMetaDataLoader):
    """Lists of tasks: `batch_size` tasks, each a `Task` or a mapping split → `Task`, which a `DataLoader` may take.

    `task[i]` is a pair of a tensor, `(C, H, W)` for images, and a target. Arguments, order and episodes are those of
    `BatchMetaDataLoader`.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # DataLoader promises its own class
        for plan, data in zip(self.episodes.plans(), super().__iter__(), strict=False):
            yield [self._task(plan, data, row) for row in range(len(plan))]

    def _task(self, plan: EpisodePlan, data: Any, row: int) -> Any:
        ways = self.episodes.dataset.num_classes_per_task
        classes = tuple(plan.classes[row].tolist())
        index = classes[0] if ways is None else classes
        if isinstance(data, Mapping):
            return {name: metabridge.Task(index, ways, *(each[row] for each in pair)) for name, pair in data.items()}
        return metabridge.Task(index, ways, *(each[row] for each in data))
