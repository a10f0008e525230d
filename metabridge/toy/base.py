"""The base of all toy regression problems: tasks and episodes by arithmetic on stream words, nothing stored."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.checks import check_count, check_number, is_count, require
from metabridge.episodes.batches import WHOLE, Arrays, EpisodeBatch
from metabridge.episodes.metadatasets import MetaDataset, Task, resolve_meta_split
from metabridge.episodes.plans import EpisodePlan
from metabridge.episodes.sampling import ClassTable, SamplingRule
from metabridge.episodes.splitters import Splitter
from metabridge.streams import normals, philox_words, stream_key, uniforms

__all__ = ["ToyMetaDataset"]

Floats = npt.NDArray[np.float64]
TaskParameters = dict[str, Floats]

_INPUT_LANE = 1
_NOISE_LANE = 2
_MOST_POINTS = 2**31


class ToyMetaDataset(MetaDataset):
    """Regression tasks numbered 0 … `num_tasks` − 1, drawn independently of each other.

    A problem says three things: how a task's parameters are distributed (`task_parameters`), how inputs are
    (`inputs_from_words`), and what is computed from both (`function`). The function of task *i* depends on
    (dataset seed, meta-split, *i*) alone, so `dataset.seed(s)` chooses the family of tasks; which points of it an
    episode sees depends on the episode's seed and index. The arithmetic is float64 and the same to the last bit on
    every machine; the arrays are float32. Nothing is stored, so the number of tasks costs nothing.

    Torchmeta draws a task's parameters when they are first asked for and new points whenever the task is, so what
    it yields depends on the order of access; here nothing does.

    Args:
        num_samples_per_task: points per episode, to be divided by the splitter.
        num_tasks: number of different tasks.
        noise_std: standard deviation of Gaussian noise added to the targets, `None` for none.
        meta_split: `"train"`, `"val"` or `"test"`: three independent families. Without it, and without one of the
            three flags, `"train"`.
        dataset_transform: a splitter.
        meta_train: the family `"train"`; at most one of these three, or `meta_split`, may be given.
        meta_val: the family `"val"`.
        meta_test: the family `"test"`.

    Raises:
        ValueError: for counts below 1, a negative noise, several meta-splits, or fewer points than the splitter needs.
    """

    def __init__(
        self,
        num_samples_per_task: int,
        num_tasks: int = 1_000_000,
        noise_std: float | None = None,
        meta_split: str | None = None,
        dataset_transform: Splitter | None = None,
        *,
        meta_train: bool = False,
        meta_val: bool = False,
        meta_test: bool = False,
    ) -> None:
        self.num_samples_per_task = check_count(num_samples_per_task, "num_samples_per_task")
        require(num_samples_per_task <= _MOST_POINTS, "num_samples_per_task", "at most 2**31", num_samples_per_task)
        self._num_tasks = check_count(num_tasks, "num_tasks")
        require(num_tasks < 2**63, "num_tasks", "below 2**63", num_tasks)
        if meta_split is None and not (meta_train or meta_val or meta_test):
            meta_split = "train"
        self.noise_std = None if noise_std is None else check_number(noise_std, "noise_std", least=0)
        super().__init__(resolve_meta_split(meta_train, meta_val, meta_test, meta_split), None, dataset_transform)

    @property
    @abstractmethod
    def parameter_ranges(self) -> dict[str, tuple[float, float]]:
        """Name → ends of the interval, for all that is distributed uniformly.

        These are parameters of a task, in the order of their words, and `"input"` unless inputs are distributed
        otherwise.
        """

    @abstractmethod
    def function(self, parameters: TaskParameters, inputs: Floats) -> Floats:
        """Noise-free targets `(B, n)` of tasks with these parameters, each `(B,)`, at `inputs` `(B, n)`."""

    def task_parameters(self, tasks: npt.ArrayLike) -> TaskParameters:
        """Parameter name → `(B,)` values of the tasks with these numbers; here all of `parameter_ranges`.

        Raises:
            IndexError: if a number is not in [0, `num_tasks`).
        """
        return self.uniform_parameters(self.parameter_words(tasks, len(self._uniform_names)))

    def inputs_from_words(self, parameters: TaskParameters, words: npt.NDArray[np.uint64]) -> Floats:
        """Inputs `(B, n)` of tasks with these parameters, each `(B,)`, from as many words; here uniform."""
        del parameters
        return uniforms(words, *self.parameter_ranges["input"])

    def evaluate(self, tasks: npt.ArrayLike, inputs: npt.ArrayLike) -> Floats:
        """Noise-free targets `(B, n)` of tasks `(B,)` at `inputs` `(B, n)`.

        Raises:
            IndexError: if a task's number is not in [0, `num_tasks`).
            ValueError: if `inputs` has not one row per task.
        """
        points, count = np.asarray(inputs, dtype=np.float64), np.size(tasks)
        if points.ndim != 2 or len(points) != count:
            raise ValueError(f"`inputs` must have a row for each task, shape ({count}, n), got shape {points.shape}.")
        return self.function(self.task_parameters(tasks), points)

    @property
    def _uniform_names(self) -> list[str]:
        return [name for name in self.parameter_ranges if name != "input"]

    def uniform_parameters(self, words: npt.NDArray[np.uint64]) -> TaskParameters:
        """Every uniformly distributed parameter `(B,)` from its column of `words` `(B, parameters)`."""
        columns = zip(self._uniform_names, words.T, strict=True)
        return {name: uniforms(column, *self.parameter_ranges[name]) for name, column in columns}

    def parameter_words(self, tasks: npt.ArrayLike, count: int) -> npt.NDArray[np.uint64]:
        """`(B, count)` words that decide the parameters of tasks `(B,)`.

        Raises:
            IndexError: if a number is not in [0, `num_tasks`).
        """
        key = stream_key(f"toy/{type(self).__name__}", self.current_seed, self.meta_split)
        words = philox_words(key, tasks, count)
        largest = int(np.max(tasks, initial=0))
        if largest >= self.num_tasks:
            raise IndexError(f"`tasks` must be numbers in [0, {self.num_tasks}), got {largest}; raise `num_tasks`.")
        return words

    @property
    def num_classes_per_task(self) -> None:
        """`None`: regression."""
        return None

    @property
    def num_tasks(self) -> int:
        """Number of different tasks."""
        return self._num_tasks

    @property
    def family(self) -> str:
        """The class, meta-split and seed, which decide the function of a task with a given number."""
        return f"{type(self).__name__}, meta-{self.meta_split}, seed {self.current_seed}"

    @property
    def description(self) -> dict[str, Any]:
        """Everything besides episode seed and index that decides an episode, as JSON-ready values."""
        return {
            "kind": type(self).__name__,
            "meta_split": self.meta_split,
            "family_seed": self.current_seed,
            "num_tasks": self.num_tasks,
            "num_samples_per_task": self.num_samples_per_task,
            "noise_std": self.noise_std,
            "ranges": {name: list(ends) for name, ends in self.parameter_ranges.items()},
            "splits": [list(split) for split in self._splitter.splits],
            "shuffle": self._splitter.shuffle,
            "random_state_seed": self.random_state_seed,
        }

    @property
    def _splitter(self) -> Splitter:
        return self.splitter or Splitter(((WHOLE, self.num_samples_per_task),), shuffle=False)

    def check_examples_per_class(self, count: int) -> None:
        """Raise `ValueError` if a task has fewer than `count` points."""
        if count > self.num_samples_per_task:
            raise ValueError(
                f"support and query together need {count} points, `num_samples_per_task` is "
                f"{self.num_samples_per_task}; raise it or ask for fewer shots."
            )

    def plan(self, seed: int, indices: npt.ArrayLike) -> EpisodePlan:
        """Plan the episodes at `indices` of the stream of `seed`: a task, and which of its points."""
        return self._rule.draw(self.episode_key(seed), indices, self._table)

    @property
    def _rule(self) -> SamplingRule:
        return SamplingRule(1, self._splitter)

    @property
    def _table(self) -> ClassTable:
        """A task is drawn as a class of one-way episodes is: all have as many points."""
        return ClassTable(np.array([self.num_samples_per_task]), self.num_tasks, family=self.family)

    def task_plan(self, index: int) -> EpisodePlan:
        """Plan task number `index`, fixed by (seed, index)."""
        if not is_count(index, 0) or index >= self.num_tasks:
            raise IndexError(f"a task is addressed by an integer in [0, {self.num_tasks}), got {index!r}.")
        return self._rule.draw_task(self.task_key(index), (index,), self._table)

    def gather(self, plan: EpisodePlan) -> EpisodeBatch:
        """Compute the points a plan names: inputs and targets `(B, k, 1)` float32 for every split.

        Raises:
            IndexError: if it names a task or a point that is not there.
            ValueError: if it was made by a meta-dataset of other tasks.
        """
        self.check_plan(plan)
        tasks, points = plan.classes[:, 0], plan.examples[:, 0]
        if points.size and not 0 <= points.min() <= points.max() < self.num_samples_per_task:
            raise IndexError(
                f"`plan` must name points in [0, {self.num_samples_per_task}), got {points.min()} to {points.max()}."
            )
        parameters = self.task_parameters(tasks)
        words = philox_words(plan.key, plan.indices, self.num_samples_per_task, _INPUT_LANE)
        inputs = np.take_along_axis(self.inputs_from_words(parameters, words), points, axis=1)
        targets = self.function(parameters, inputs)
        if self.noise_std is not None:
            noise = normals(philox_words(plan.key, plan.indices, self.num_samples_per_task, _NOISE_LANE))
            targets = targets + self.noise_std * np.take_along_axis(noise, points, axis=1)
        splits: dict[str, Arrays] = {}
        for name, columns in plan.split_columns():
            chosen = np.ascontiguousarray(inputs[:, columns, None], dtype=np.float32)
            splits[name] = (chosen, np.ascontiguousarray(targets[:, columns, None], dtype=np.float32))
        return EpisodeBatch(plan, splits)

    def __iter__(self) -> Iterator[Task | dict[str, Task]]:
        """All tasks in order, made one at a time."""
        return (self[index] for index in range(self.num_tasks))

    def __repr__(self) -> str:
        points = self.num_samples_per_task
        return f"{type(self).__name__}({self.num_tasks} tasks of {points} points, meta-{self.meta_split})"
