"""Meta-datasets: tasks over the classes of a source, addressed by class tuple or by (seed, episode index)."""

import itertools
import json
import math
import operator
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from metabridge.checks import check_integer, is_integer
from metabridge.digests import Digest
from metabridge.episodes.batches import WHOLE, EpisodeBatch, gather_batch
from metabridge.episodes.plans import EpisodePlan
from metabridge.episodes.sampling import ClassTable, SamplingRule
from metabridge.episodes.splitters import Splitter
from metabridge.sources.base import ClassSource
from metabridge.streams import stream_key
from metabridge.transforms.classes import ClassAugmentation, expand_class_augmentations
from metabridge.transforms.images import Elementwise, ImageTransform, expand_transforms
from metabridge.transforms.targets import Categorical

__all__ = ["META_SPLITS", "CombinationMetaDataset", "MetaDataset", "Task", "resolve_meta_split"]

META_SPLITS = ("train", "val", "test")


def resolve_meta_split(
    meta_train: bool = False, meta_val: bool = False, meta_test: bool = False, meta_split: str | None = None
) -> str:
    """The one meta-split that the arguments name.

    Raises:
        ValueError: if they name none, several, or an unknown one.
    """
    flags = {"train": meta_train, "val": meta_val, "test": meta_test}
    named = [name for name, flag in flags.items() if flag]
    if meta_split is not None and meta_split not in named:
        named.append(meta_split)
    if len(named) != 1 or named[0] not in META_SPLITS:
        raise ValueError(
            "exactly one of `meta_train`, `meta_val`, `meta_test` must be true, or `meta_split` be one of "
            f"{', '.join(map(repr, META_SPLITS))}; got {', '.join(map(repr, named)) or 'none'}."
        )
    return named[0]


class Task:
    """The examples of one task, or of one split of it: a map-style dataset.

    `task[i]` is a pair `(input, target)`: `input` a float32 array of the source's example shape, `target` an int
    (a float32 array for regression, a mask for segmentation). Examples are grouped by class in the task's class order.

    Attributes:
        index: the tuple of class ids, or the integer of a toy task.
        num_classes: number of ways, or `None` for regression.
        inputs: `(n, *example_shape)` float32.
        targets: `(n,)` int64; `(n, 1)` float32 for regression; `(n, H, W)` int64 masks for segmentation.
    """

    def __init__(
        self,
        index: tuple[int, ...] | int,
        num_classes: int | None,
        inputs: npt.NDArray[np.float32],
        targets: npt.NDArray[Any],
    ) -> None:
        self.index = index
        self.num_classes = num_classes
        self.inputs = inputs
        self.targets = targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, i: int) -> tuple[npt.NDArray[np.float32], Any]:
        target = self.targets[i]
        return self.inputs[i], target if target.ndim else int(target)

    def attach(self, splitter: Splitter) -> "dict[str, Task]":
        """Divide the examples by `splitter`, class by class: split → task. `splitter(task)` calls it.

        Examples of one label are a class; without classes all examples are one. The division is fixed by the task's
        index, the sizes of its classes and the splitter.

        Raises:
            ValueError: if a class has fewer examples than the splitter takes.
        """
        classes = self.targets if self.num_classes and self.targets.ndim == 1 else np.zeros(len(self), dtype=np.int64)
        labels = list(dict.fromkeys(classes.tolist()))
        rows = [np.flatnonzero(classes == label) for label in labels]
        sizes = np.array([len(each) for each in rows], dtype=np.int64)
        if not len(rows) or sizes.min() < splitter.examples_per_class:
            raise ValueError(
                f"the splits together need {splitter.examples_per_class} examples of every class, {self!r} has "
                f"{sizes.min(initial=len(self))} of one; ask for fewer shots or test shots."
            )
        key = stream_key(f"division/{splitter.random_state_seed}", 0, json.dumps(self.index))
        plan = SamplingRule(len(rows), splitter).draw_task(key, tuple(range(len(rows))), ClassTable(sizes, len(rows)))
        tasks = {}
        for position, (name, columns) in enumerate(plan.split_columns()):
            by_class = zip(rows, plan.examples[0, :, columns], plan.counts[0, :, position], strict=True)
            chosen = np.concatenate([each[ids[:count]] for each, ids, count in by_class])
            tasks[name] = Task(self.index, self.num_classes, self.inputs[chosen], self.targets[chosen])
        return tasks

    def __repr__(self) -> str:
        return f"Task(index={self.index}, num_classes={self.num_classes}, {len(self)} examples)"


class _Fixed:
    """An attribute that is given to a meta-dataset when it is made; assigning another value later is an error.

    Other attributes were computed from it, so that a new value would change a part of the meta-dataset. It is kept in
    the instance, where reading finds it as any attribute.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __set__(self, instance: object, value: object) -> None:
        if self.name in vars(instance):
            raise AttributeError(f"`{self.name}` of a meta-dataset is fixed; make another meta-dataset with it.")
        vars(instance)[self.name] = value


def _fixed() -> Any:
    return _Fixed()


class MetaDataset(ABC):
    """A family of tasks from which episodes are planned and gathered.

    An episode is a pure function of this object's configuration, a seed and an episode index:
    `dataset.plan(seed, indices)` says which examples, `dataset.gather(plan)` copies them.

    Args:
        meta_split: `"train"`, `"val"` or `"test"`; different meta-splits draw from different streams.
        target_transform: `Categorical` for permuted labels, `None` for a class's position as its label.
        dataset_transform: a splitter, or `None` to keep all examples of a task together.
    """

    meta_split: str = _fixed()

    def __new__(cls, *args: Any, **options: Any) -> Self:
        """Refuse a class that does not say what its tasks are."""
        if cls.__abstractmethods__:
            raise TypeError(
                f"{cls.__name__} must define {', '.join(sorted(cls.__abstractmethods__))}. For classes of examples "
                "use CombinationMetaDataset over a class source; for regression derive from "
                "metabridge.toy.ToyMetaDataset; with `__len__` and `__getitem__` alone, as in Torchmeta, derive from "
                "torch_backend.torchmeta.MetaDataset."
            )
        return super().__new__(cls)

    def __init__(
        self,
        meta_split: str = "train",
        target_transform: Categorical | None = None,
        dataset_transform: Splitter | None = None,
    ) -> None:
        self.meta_split = resolve_meta_split(meta_split=meta_split)
        self.target_transform = target_transform
        self._attached: Splitter | None = None
        self._seeding = (0, False)  # the seed, and whether it was given; another object after every call of `seed`
        self._sampled = 0
        self.splitter = dataset_transform

    @property
    def target_transform(self) -> Categorical | None:
        """`Categorical` for permuted labels, `None` for a class's position as its label."""
        return self._target_transform

    @target_transform.setter
    def target_transform(self, value: Categorical | None) -> None:
        if value is not None and not isinstance(value, Categorical):
            raise TypeError(
                f"`target_transform` must be a Categorical or None, got {value!r}; labels are integers either way, and "
                "class names are in `dataset.class_names`."
            )
        if value is not None:
            self.check_target_transform(value)
        self._target_transform = value

    @property
    def splitter(self) -> Splitter | None:
        """The splitter that divides every task, `None` if its examples stay together."""
        return self._attached

    @splitter.setter
    def splitter(self, value: Splitter | None) -> None:
        if value is not None and not isinstance(value, Splitter):
            raise TypeError(
                f"`dataset_transform` must be a splitter or None, got {value!r}; pass for example "
                "ClassSplitter(num_train_per_class=5, num_test_per_class=15)."
            )
        if value is not None:
            self.check_splitter(value)
        self._attached = value

    @property
    def dataset_transform(self) -> Splitter | None:
        """The splitter, under its name in the constructor."""
        return self.splitter

    @dataset_transform.setter
    def dataset_transform(self, value: Splitter | None) -> None:
        self.splitter = value

    @property
    @abstractmethod
    def num_classes_per_task(self) -> int | None:
        """N, or `None` for regression."""

    @property
    def family(self) -> str:
        """Words or a digest that identify the tasks: equal families, equal meanings of the ids in a plan.

        They say nothing of splits, labels or seeds of episodes, nor of the examples. `""` is unknown.
        """
        return ""

    @property
    @abstractmethod
    def num_tasks(self) -> int:
        """How many different tasks there are, exactly."""

    @property
    @abstractmethod
    def description(self) -> dict[str, Any]:
        """Everything besides seed and index that decides an episode, as JSON-ready values."""

    @abstractmethod
    def check_examples_per_class(self, count: int) -> None:
        """Raise `ValueError` if some class (or toy task) has fewer than `count` examples."""

    @abstractmethod
    def plan(self, seed: int, indices: npt.ArrayLike) -> EpisodePlan:
        """Plan the episodes at `indices` of the stream of `seed`.

        Args:
            seed: any integer.
            indices: `(B,)` non-negative integers, in any order.
        """

    @abstractmethod
    def gather(self, plan: EpisodePlan) -> EpisodeBatch:
        """Copy the examples a plan names."""

    @abstractmethod
    def task_plan(self, index: Any) -> EpisodePlan:
        """Plan the one task `index`, fixed by this dataset's seed."""

    def attach(self, splitter: Splitter) -> Self:
        """Divide every task by `splitter`; returns this meta-dataset."""
        self.splitter = splitter
        return self

    def check_plan(self, plan: EpisodePlan) -> None:
        """Raise `ValueError` if `plan` was made by a meta-dataset of other tasks: its ids mean something else here."""
        if plan.family not in ("", self.family):
            raise ValueError(
                f"`plan` must be of this meta-dataset, {self!r}, it was made by one of other tasks, and its ids stand "
                "for other examples here; gather it with the meta-dataset that made it."
            )

    def check_target_transform(self, target_transform: Categorical) -> None:
        """Raise an error unless labels can be permuted so."""
        if self.num_classes_per_task is None:
            raise TypeError(f"`target_transform` must be None for regression, got {target_transform!r}.")
        target_transform.check(self.num_classes_per_task)

    def check_splitter(self, splitter: Splitter) -> None:
        """Raise an error unless every task can be divided by `splitter`."""
        if splitter.is_weighted:
            raise TypeError(
                f"{type(self).__name__} has tasks of equally many examples, which WeightedClassSplitter cannot weigh; "
                "use ClassSplitter."
            )
        self.check_examples_per_class(splitter.examples_per_class)

    def seed(self, seed: int | None = None) -> None:
        """Set the seed of `dataset[…]` and of `sample_task`, and the default of loaders; `None` means 0.

        A loader that was made before without a seed of its own refuses to go on.
        """
        self.episode_key(0 if seed is None else seed)  # refuses what is no integer
        self._seeding = (int(seed or 0), seed is not None)
        self._sampled = 0

    @property
    def current_seed(self) -> int:
        """The seed that `dataset[…]` and `sample_task` use."""
        return self._seeding[0]

    @property
    def is_seeded(self) -> bool:
        """Whether `seed` was called with a seed."""
        return self._seeding[1]

    @property
    def random_state_seed(self) -> int:
        """The splitter's own seed, 0 without a splitter."""
        return self.splitter.random_state_seed if self.splitter else 0

    def episode_key(self, seed: int) -> tuple[int, int]:
        """Address of the stream that the episodes of `seed` are drawn from."""
        return stream_key(f"episode/{self.random_state_seed}", seed, self.meta_split)

    def task_key(self, index: object) -> tuple[int, int]:
        """Address of the stream of the one task `index`."""
        return stream_key(f"task/{self.random_state_seed}/{index}", self.current_seed, self.meta_split)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal BLAKE2b of `description`: equal fingerprints, equal episodes for equal seed and index."""
        return Digest(json.dumps(self.description, sort_keys=True)).hexadecimal()

    def episodes(self, indices: npt.ArrayLike, seed: int | None = None) -> EpisodeBatch:
        """Plan and gather the episodes at `indices`; `seed` defaults to the dataset's."""
        return self.gather(self.plan(self.current_seed if seed is None else seed, indices))

    def __getitem__(self, index: Any) -> Task | dict[str, Task]:
        """The task `index`: a `Task`, or a dictionary split → `Task` if a splitter is attached."""
        return self.tasks_of(self.task_plan(index))

    def sample_task(self) -> Task | dict[str, Task]:
        """The next task of the dataset's own stream: call number *i* after `seed(s)` is episode *i* of seed *s*."""
        self._sampled += 1
        return self.tasks_of(self.plan(self.current_seed, [self._sampled - 1]))

    def tasks_of(self, plan: EpisodePlan) -> Task | dict[str, Task]:
        """The single episode of `plan` as tasks."""
        batch = self.gather(plan)
        classes = tuple(int(c) for c in plan.classes[0])
        index = classes[0] if self.num_classes_per_task is None else classes
        tasks = {
            name: Task(index, self.num_classes_per_task, inputs[0], targets[0])
            for name, (inputs, targets) in batch.items()
        }
        return tasks if self.splitter else tasks[WHOLE]

    def __len__(self) -> int:
        if self.num_tasks > sys.maxsize:
            raise OverflowError("`len` cannot hold the number of tasks of this meta-dataset; use `dataset.num_tasks`.")
        return self.num_tasks

    def __bool__(self) -> bool:
        return True


class CombinationMetaDataset(MetaDataset):
    """N-way classification: a task is an ordered tuple of N distinct classes of a source.

    `dataset[(3, 7, 1)]` is the task of these classes, fixed by (seed, class tuple); iterating goes through all
    combinations in lexicographic order, one at a time.

    >>> import numpy as np
    >>> from metabridge.sources import ArraySource
    >>> from metabridge.episodes.splitters import ClassSplitter
    >>> letters = {name: np.full((20, 8, 8, 1), i, np.uint8) for i, name in enumerate("abcdefg")}
    >>> dataset = CombinationMetaDataset(ArraySource.from_classes(letters), num_classes_per_task=3)
    >>> dataset = ClassSplitter(dataset, num_train_per_class=2, num_test_per_class=5)
    >>> dataset[(3, 6, 1)]["test"]
    Task(index=(3, 6, 1), num_classes=3, 15 examples)
    >>> dataset.episodes(range(4), seed=0)
    EpisodeBatch(4 episodes; train: (4, 6, 8, 8, 1) → (4, 6), test: (4, 15, 8, 8, 1) → (4, 15))
    >>> len(dataset)
    35

    Args:
        source: the classes of this meta-split.
        num_classes_per_task: N.
        meta_split: `"train"`, `"val"` or `"test"`.
        target_transform: `Categorical(N)` for permuted labels, `None` for a class's position in the tuple.
        dataset_transform: a splitter.
        class_augmentations: augmentations of which each makes a new class of every class: class id
            `c + a * C` is class `c` of the source under the a-th augmentation. A mapping meta-split →
            augmentations names the meta-splits they are for; the others have none.
        transform: image transforms of `metabridge.transforms`, one or a list; they see the inputs after class
            augmentation, float32 in [0, 1], and draw from the episode's stream.
        query_source: a source in which every class of `source` is found again by its name. Then the first split
            (support) comes from `source` and the other splits come from here, drawn independently: nothing is in
            both unless it is in both sources.

    Raises:
        TypeError: if `num_classes_per_task` is no integer, or `transform` no image transform.
        ValueError: if there are fewer classes than ways, a class has too few examples for the splitter, an
            augmentation or transform does not fit the images, or a class is missing in `query_source`.
    """

    kind = "classification"
    source: ClassSource = _fixed()
    query_source: ClassSource | None = _fixed()
    class_augmentations: tuple[ClassAugmentation, ...] = _fixed()
    transforms: tuple[ImageTransform, ...] = _fixed()

    def __init__(
        self,
        source: ClassSource,
        num_classes_per_task: int,
        meta_split: str = "train",
        target_transform: Categorical | None = None,
        dataset_transform: Splitter | None = None,
        class_augmentations: Sequence[ClassAugmentation] | Mapping[str, Sequence[ClassAugmentation]] | None = None,
        transform: ImageTransform | Sequence[ImageTransform] | None = None,
        query_source: ClassSource | None = None,
    ) -> None:
        num_classes_per_task = check_integer(num_classes_per_task, "num_classes_per_task", "pass for example 5")
        if not hasattr(source, "class_sizes"):
            by_class = hasattr(source, "num_classes")
            one = "ClassDatasetSource(dataset)" if by_class else "ArraySource.from_labels(images, labels)"
            raise TypeError(
                f"`source` must be a class source, got {type(source).__name__}; make one, for example with {one} of "
                "metabridge.sources."
            )
        self.source = source
        self.class_augmentations = expand_class_augmentations(_of_meta_split(class_augmentations, meta_split))
        self.transforms = expand_transforms(transform)
        self.query_source = None if query_source is None else _same_classes(source, query_source)
        self._ways = num_classes_per_task
        if not 1 <= num_classes_per_task <= self.num_classes:
            raise ValueError(
                f"`num_classes_per_task` must lie between 1 and the number of classes, which is {self.num_classes} in "
                f"meta-split {meta_split!r}, got {num_classes_per_task}; ask for fewer ways or add class augmentations."
            )
        for augmentation in self.class_augmentations:
            self._check_augmentation(augmentation)
        self.input_shape = self._transformed_shape()
        super().__init__(meta_split, target_transform, dataset_transform)

    def _check_augmentation(self, augmentation: ClassAugmentation) -> None:
        """A wrong shape fails here and not in the middle of training."""
        probe = np.zeros((1, *self.source.example_shape), dtype=self.source.dtype)
        result = augmentation(probe)
        if result.shape != probe.shape or result.dtype != probe.dtype:
            raise ValueError(
                f"`class_augmentations`: {augmentation!r} turns {probe.dtype} of shape {probe.shape[1:]} into "
                f"{result.dtype} of shape {result.shape[1:]}; keep both."
            )

    def _transformed_shape(self) -> tuple[int, ...]:
        """Shape of one input; a transform that does not fit fails here and not in the middle of training."""
        if len(self.stored_shape) != 3 and not all(isinstance(each, Elementwise) for each in self.transforms):
            raise ValueError(
                f"`transform` is for images (H, W, channels), got examples of shape {self.stored_shape}; of what is no "
                "image only Elementwise transforms such as Normalize are possible."
            )
        probe = np.zeros((1, *self.stored_shape), dtype=np.float32)
        for transform in self.transforms:
            probe = transform.apply(probe, transform.draw(np.zeros((1, transform.num_words), dtype=np.uint64)))
        return probe.shape[1:]

    @property
    def transform(self) -> tuple[ImageTransform, ...]:
        """The image transforms, under their name in the constructor."""
        return self.transforms

    @transform.setter
    def transform(self, value: object) -> None:
        raise AttributeError("`transform` of a meta-dataset is fixed; make another meta-dataset with it.")

    @cached_property
    def family(self) -> str:
        """Hexadecimal BLAKE2b of names and sizes of classes, in their order, and of their augmentations."""
        digest = Digest(f"metabridge classes\n{self.num_classes}\n").add_texts(self.source.class_names)
        digest.add_array(np.asarray(self.source.class_sizes), "<i8")
        digest.add_texts(map(repr, self.class_augmentations))
        if self.query_source is not None:
            digest.add_array(np.asarray(self.query_source.class_sizes), "<i8")
        return digest.hexadecimal()

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of one input before `transform`."""
        return self.source.example_shape

    @property
    def num_classes(self) -> int:
        """Number of classes including augmented ones."""
        return len(self.source.class_sizes) * (1 + len(self.class_augmentations))

    @property
    def num_classes_per_task(self) -> int:
        """N."""
        return self._ways

    @property
    def num_tasks(self) -> int:
        """Number of combinations of classes, exactly, however large."""
        return math.comb(self.num_classes, self._ways)

    def class_name(self, class_id: int) -> str:
        """Name of a class, with its augmentation."""
        augmentation, position = divmod(class_id, len(self.source.class_sizes))
        name = self.source.class_names[position]
        return f"{name} {self.class_augmentations[augmentation - 1]!r}" if augmentation else name

    @property
    def description(self) -> dict[str, Any]:
        """Everything besides seed and index that decides an episode, as JSON-ready values."""
        return {
            "kind": self.kind,
            "source": self.source.fingerprint,
            "meta_split": self.meta_split,
            "ways": self._ways,
            "class_augmentations": [repr(each) for each in self.class_augmentations],
            "permuted_labels": self.target_transform is not None,
            **self._splitter.description,
            "random_state_seed": self.random_state_seed,
            **self._optional_description(),
        }

    def _optional_description(self) -> dict[str, Any]:
        """Parts that most meta-datasets lack; a missing one leaves no trace in the fingerprint."""
        found: dict[str, Any] = {}
        if self.transforms:
            found["transform"] = [repr(each) for each in self.transforms]
        if self.query_source is not None:
            found["query_source"] = self.query_source.fingerprint
        return found

    @property
    def _splitter(self) -> Splitter:
        """The attached splitter, or one that keeps all examples in order."""
        if self.splitter is not None:
            return self.splitter
        if self.query_source is not None:
            raise ValueError(
                "with `query_source` a task needs a support and a query set; attach a splitter with "
                "ClassSplitter(dataset, num_train_per_class=…, num_test_per_class=…)."
            )
        sizes = self.source.class_sizes
        if sizes.min() != sizes.max():
            raise ValueError(
                f"without a splitter all classes must have the same number of examples, got {sizes.min()} to "
                f"{sizes.max()}; attach one with ClassSplitter(dataset, num_train_per_class=…, num_test_per_class=…)."
            )
        return Splitter(((WHOLE, int(sizes[0])),), shuffle=False)

    def check_splitter(self, splitter: Splitter) -> None:
        """Raise `ValueError` unless every class has enough examples for `splitter`."""
        if self.query_source is None:
            self.check_examples_per_class(splitter.examples_per_class)
            return
        if splitter.is_weighted or len(splitter) < 2:
            raise ValueError(
                f"with `query_source` a splitter must fix the numbers of a support and a query set, got {splitter!r}; "
                "use ClassSplitter(num_train_per_class=…, num_test_per_class=…)."
            )
        (name, support), *_ = splitter.splits
        _check_sizes(self.source, support, f"the split {name!r} needs")
        _check_sizes(self.query_source, splitter.examples_per_class - support, "in `query_source` the others need")

    def check_examples_per_class(self, count: int) -> None:
        """Raise `ValueError` if some class has fewer than `count` examples."""
        _check_sizes(self.source, count, "support and query together need")

    def plan(self, seed: int, indices: npt.ArrayLike) -> EpisodePlan:
        """Plan the episodes at `indices` of the stream of `seed`: classes, labels and examples."""
        return self._rule.draw(self.episode_key(seed), indices, self._table)

    @property
    def _rule(self) -> SamplingRule:
        return SamplingRule(self._ways, self._splitter, self.target_transform is not None)

    @property
    def _table(self) -> ClassTable:
        query_sizes = None if self.query_source is None else self.query_source.class_sizes
        return ClassTable(self.source.class_sizes, self.num_classes, query_sizes, self.family)

    def task_plan(self, index: Sequence[int]) -> EpisodePlan:
        """Plan the task of the class tuple `index`, fixed by (seed, class tuple)."""
        classes = self._check_index(index)
        return self._rule.draw_task(self.task_key(",".join(map(str, classes))), classes, self._table)

    def _check_index(self, index: Any) -> tuple[int, ...]:
        if is_integer(index) or not isinstance(index, Collection) or len(index) != self._ways:
            raise ValueError(
                f"a task is addressed by a tuple of {self._ways} class ids, got {index!r}; for a random task use "
                "`dataset.sample_task()`, for the episodes of a seed `dataset.episodes(indices, seed)`."
            )
        classes = tuple(operator.index(c) for c in index)  # a TypeError for what is no integer
        if len(set(classes)) != len(classes):
            raise ValueError(f"the classes of a task must be distinct, got {classes}.")
        if min(classes) < 0 or max(classes) >= self.num_classes:
            raise IndexError(f"class ids must lie in [0, {self.num_classes}), got {classes}.")
        return classes

    def gather(self, plan: EpisodePlan) -> EpisodeBatch:
        """Copy the examples a plan names.

        Raises:
            IndexError: if it names a class or an example that is not there.
            ValueError: if it was made by a meta-dataset of other classes.
        """
        self.check_plan(plan)
        return gather_batch(plan, self.source, self.class_augmentations, self.transforms, self.query_source)

    def __iter__(self) -> Iterator[Task | dict[str, Task]]:
        """All tasks in lexicographic order of their class tuples, made one at a time."""
        return (self[classes] for classes in itertools.combinations(range(self.num_classes), self._ways))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_classes} classes, {self._ways}-way, meta-{self.meta_split})"


def _of_meta_split(augmentations: Any, meta_split: str) -> Any:
    """The augmentations of one meta-split, where a mapping says which have which."""
    if not isinstance(augmentations, Mapping):
        return augmentations
    unknown = [name for name in augmentations if name not in META_SPLITS]
    if unknown:
        raise ValueError(
            f"`class_augmentations` must map meta-splits to lists; these are {', '.join(map(repr, META_SPLITS))}, "
            f"got {unknown[0]!r}."
        )
    return augmentations.get(meta_split)


def _same_classes(source: ClassSource, query_source: ClassSource) -> ClassSource:
    """The classes of `source` out of `query_source`, in the same order."""
    if query_source is source:
        raise ValueError("`query_source` must be another source than `source`; leave it out to divide one source.")
    ours, theirs = (f"{each.example_shape} {each.dtype}" for each in (source, query_source))
    if ours != theirs:
        raise ValueError(
            f"`query_source` must have examples of the same shape and dtype as `source`, got {theirs} and {ours}; "
            "open both with the same resize=(height, width) and mode."
        )
    ids = {name: i for i, name in enumerate(query_source.class_names)}
    missing = [name for name in source.class_names if name not in ids]
    if missing:
        shown = ", ".join(map(repr, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise ValueError(
            f"`query_source` must have every class of `source`, {len(missing)} of {len(source.class_names)} are "
            f"missing: {shown}; rename_classes(query_source, …) gives its classes other names."
        )
    return query_source.select([ids[name] for name in source.class_names])


def _check_sizes(source: ClassSource, count: int, who: str) -> None:
    sizes = source.class_sizes
    if sizes.min() < count:
        name = source.class_names[int(sizes.argmin())]
        raise ValueError(
            f"{who} {count} examples of every class, class {name!r} has {sizes.min()}; "
            "ask for fewer shots or test shots."
        )
