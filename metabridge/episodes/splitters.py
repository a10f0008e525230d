"""Splitters: how many examples of each class are support and how many are query."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar, overload

import numpy as np
import numpy.typing as npt

from metabridge.checks import check_count, check_mapping, check_seed, check_share, require

__all__ = ["ClassSplitter", "Divisible", "Splitter", "WeightedClassSplitter", "WeightedSplitter"]

Integers = npt.NDArray[np.int64]


D = TypeVar("D")
D_co = TypeVar("D_co", covariant=True)


class Divisible(Protocol[D_co]):
    """A meta-dataset or a task, as far as splitters know it: it can be divided."""

    def attach(self, splitter: "Splitter") -> D_co:
        """Divide every task, or this one, by `splitter`: the same meta-dataset, or split → task."""


@dataclass(frozen=True)
class Splitter:
    """The rule that divides the examples of every class of a task into named, disjoint splits.

    Attributes:
        splits: pairs (name, examples per class), in the order of the batch's keys.
        shuffle: draw the examples at random; otherwise a class's first examples are the first split, the next
            ones the second, and so on.
        random_state_seed: another value makes other episodes for the same seed and index.
    """

    is_weighted: ClassVar[bool] = False

    splits: tuple[tuple[str, int], ...]
    shuffle: bool = True
    random_state_seed: int = 0

    def __post_init__(self) -> None:
        if not self.splits:
            raise ValueError(
                "a splitter needs at least one split, got none; "
                "pass for example num_train_per_class=5, num_test_per_class=15."
            )
        counts = [(name, check_count(count, f"num_samples_per_class[{name!r}]")) for name, count in self.splits]
        names = [name for name, _ in counts]
        require(len(set(names)) == len(names), "splits", "pairs of distinct names and counts", self.splits)
        object.__setattr__(self, "splits", tuple(counts))
        object.__setattr__(self, "random_state_seed", check_seed(self.random_state_seed, "random_state_seed"))

    @property
    def examples_per_class(self) -> int:
        """Examples of each class that an episode uses, over all splits."""
        return sum(count for _, count in self.splits)

    def columns(self, class_sizes: Integers) -> tuple[tuple[str, int], ...]:
        """For classes of these sizes, the splits and how many examples of a class each can have at most."""
        return self.splits

    def counts(self, sizes: Integers) -> Integers:
        """`(B, N, S)` examples that classes of `sizes` `(B, N)` have in each split."""
        shots = np.array([count for _, count in self.splits], dtype=np.int64)
        return np.broadcast_to(shots, (*sizes.shape, len(shots)))

    @property
    def description(self) -> dict[str, Any]:
        """The choices of this splitter that decide an episode, as JSON-ready values."""
        return {"splits": [list(split) for split in self.splits], "shuffle": self.shuffle}

    def __len__(self) -> int:
        return len(self.splits)

    def __call__(self, task: Divisible[D]) -> D:
        """Attach this splitter to a meta-dataset and return the same meta-dataset, or divide one task: split → task."""
        _check_divisible(task)
        return task.attach(self)


@dataclass(frozen=True)
class WeightedSplitter(Splitter):
    """The rule of `WeightedClassSplitter`: how many examples of a class each split has follows the class's size.

    Attributes:
        splits: pairs (name, smallest number of examples per class).
        weights: share of a class's examples that each split has.
        maxima: largest number of examples per class of each split, or `None`.
        force_equal_per_class: whether the smallest class of a task decides for all its classes.
    """

    is_weighted: ClassVar[bool] = True

    weights: tuple[float, ...] = ()
    maxima: tuple[int | None, ...] = ()
    force_equal_per_class: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for argument, values in (("weights", self.weights), ("maxima", self.maxima)):
            require(
                len(values) == len(self.splits), argument, f"one value for each of {len(self.splits)} splits", values
            )
        for (name, minimum), weight, maximum in zip(self.splits, self.weights, self.maxima, strict=True):
            check_share(weight, f"weights[{name!r}]")
            if maximum is not None:
                advice = f"`min_num_samples[{name!r}]` is {minimum}"
                check_count(maximum, f"max_num_samples[{name!r}]", least=minimum, advice=advice)
        if sum(self.weights) > 1 + 1e-9:
            names = {name: weight for (name, _), weight in zip(self.splits, self.weights, strict=True)}
            raise ValueError(f"`weights` must sum to at most 1, got {names!r}.")

    def counts(self, sizes: Integers) -> Integers:
        """`(B, N, S)` examples that classes of `sizes` `(B, N)` have in each split.

        A pure function of a class's size, or of the size of the smallest class of its task.
        The weighted size, rounded down, and brought between minimum and maximum. Where minima make the splits
        together larger than the class, the splits with the largest weights give way, down to their minima.
        """
        if self.force_equal_per_class:
            sizes = np.broadcast_to(sizes.min(axis=-1, keepdims=True), sizes.shape)
        minima = np.array([minimum for _, minimum in self.splits])
        # Nine decimals first: 0.29 · 100 is 28.999999999999996 in floating point.
        shares = np.floor(np.round(sizes[..., None] * np.array(self.weights), 9)).astype(np.int64)
        counts = np.maximum(shares, minima)
        for split, maximum in enumerate(self.maxima):
            if maximum is not None:
                np.minimum(counts[..., split], maximum, out=counts[..., split])
        for split in sorted(range(len(minima)), key=lambda s: (-self.weights[s], s)):
            surplus = np.maximum(counts.sum(axis=-1) - sizes, 0)
            counts[..., split] -= np.minimum(surplus, counts[..., split] - minima[split])
        return counts

    def columns(self, class_sizes: Integers) -> tuple[tuple[str, int], ...]:
        """The splits, and how many examples of a class each has at most in any task of these classes."""
        largest = self.counts(class_sizes[:, None]).max(axis=(0, 1)).tolist()
        return tuple((name, count) for (name, _), count in zip(self.splits, largest, strict=True))

    @property
    def description(self) -> dict[str, Any]:
        """The choices of this splitter that decide an episode, as JSON-ready values."""
        return {
            **super().description,
            "weights": list(self.weights),
            "maxima": list(self.maxima),
            "force_equal_per_class": self.force_equal_per_class,
        }


@overload
def ClassSplitter(
    task: None = None,
    shuffle: bool = True,
    num_samples_per_class: Mapping[str, int] | None = None,
    num_train_per_class: int | None = None,
    num_test_per_class: int | None = None,
    num_support_per_class: int | None = None,
    num_query_per_class: int | None = None,
    random_state_seed: int = 0,
) -> Splitter: ...
@overload
def ClassSplitter(
    task: Divisible[D],
    shuffle: bool = True,
    num_samples_per_class: Mapping[str, int] | None = None,
    num_train_per_class: int | None = None,
    num_test_per_class: int | None = None,
    num_support_per_class: int | None = None,
    num_query_per_class: int | None = None,
    random_state_seed: int = 0,
) -> D: ...
def ClassSplitter(  # noqa: N802
    task: Divisible[D] | None = None,
    shuffle: bool = True,
    num_samples_per_class: Mapping[str, int] | None = None,
    num_train_per_class: int | None = None,
    num_test_per_class: int | None = None,
    num_support_per_class: int | None = None,
    num_query_per_class: int | None = None,
    random_state_seed: int = 0,
) -> Splitter | D:
    """The same number of examples of every class in each split, as Torchmeta's function of this name.

    `num_samples_per_class` wins over the other counts; `num_train_per_class` and `num_support_per_class` both
    name the support set (key `"train"`, or `"support"` if given by that name), `num_test_per_class` and
    `num_query_per_class` the query set. For regression a whole task counts as one class.

    >>> ClassSplitter(num_train_per_class=1, num_test_per_class=15).splits
    (('train', 1), ('test', 15))

    Args:
        task: a meta-dataset to attach the splitter to, a task to divide, or `None` for the splitter alone
            (to be passed as `dataset_transform`).
        shuffle: draw the examples at random from the episode's stream.
        num_samples_per_class: split name → examples per class.
        num_train_per_class: support examples per class, under the key `"train"`.
        num_test_per_class: query examples per class, under the key `"test"`.
        num_support_per_class: the same under the key `"support"`.
        num_query_per_class: the same under the key `"query"`.
        random_state_seed: another value makes other episodes for the same seed and index.

    Returns:
        The splitter, the given meta-dataset with the splitter attached, or split → task of the given task.

    Raises:
        ValueError: without any count, for a count below 1, for the same set named twice, or when a class of
            `task` has too few examples.
    """
    if num_samples_per_class is None:
        num_samples_per_class = _named_once(
            {
                "train": num_train_per_class,
                "support": num_support_per_class,
                "test": num_test_per_class,
                "query": num_query_per_class,
            },
            "num_{}_per_class",
        )
    check_mapping(num_samples_per_class, "num_samples_per_class", "pass split name → examples per class")
    splitter = Splitter(tuple(num_samples_per_class.items()), shuffle, random_state_seed)
    return splitter if task is None else splitter(task)


def WeightedClassSplitter(  # noqa: N802
    task: Divisible[Any] | None = None,
    shuffle: bool = True,
    min_num_samples: int | Mapping[str, int] = 1,
    max_num_samples: int | Mapping[str, int] | None = None,
    weights: Mapping[str, float] | None = None,
    train_weights: float | None = None,
    test_weights: float | None = None,
    support_weights: float | None = None,
    query_weights: float | None = None,
    force_equal_per_class: bool = False,
    random_state_seed: int = 0,
) -> Any:
    """As many examples of a class as its size allows: a share of them for each split, within limits.

    A split has `⌊weight · size⌋` examples of a class, but at least `min_num_samples` and at most
    `max_num_samples`; splits never share an example. For classes of 20 and of 100 examples with
    `train_weights=0.2, test_weights=0.5, max_num_samples=30` these are 4 and 20 support examples, 10 and 30
    query examples. As Torchmeta's function of this name, which gave both splits the same examples.

    Where classes differ in size, the episodes of a batch may differ in their number of examples: the shorter ones
    are padded, see `EpisodeBatch.masks`. `targets` tell the examples of a class, grouped by class as always. A plan
    has room for the largest class: give `max_num_samples` where classes have many thousands of examples.

    >>> splitter = WeightedClassSplitter(train_weights=0.2, test_weights=0.5, max_num_samples=30)
    >>> splitter.counts(np.array([[20, 100]])).tolist()
    [[[4, 10], [20, 30]]]

    Args:
        task: a meta-dataset to attach the splitter to, a task to divide, or `None` for the splitter alone
            (to be passed as `dataset_transform`).
        shuffle: draw the examples at random from the episode's stream.
        min_num_samples: smallest number per class, at least 1; one for all splits, or split → number (1 where it
            says nothing).
        max_num_samples: largest number per class; the same, and `None` for no limit.
        weights: split name → share; wins over the other weights.
        train_weights: share of the support set, under the key `"train"`.
        test_weights: share of the query set, under the key `"test"`.
        support_weights: the same as `train_weights` under the key `"support"`.
        query_weights: the same as `test_weights` under the key `"query"`.
        force_equal_per_class: take as many of every class of a task as of its smallest class.
        random_state_seed: another value makes other episodes for the same seed and index.

    Returns:
        The splitter, the given meta-dataset with the splitter attached, or split → task of the given task.

    Raises:
        ValueError: without any weight, if weights are not positive or sum to more than 1, for limits that
            contradict each other or name no split, for the same set named twice, or when a class of `task` has
            fewer examples than the minima together.
    """
    if weights is None:
        weights = _named_once(
            {"train": train_weights, "support": support_weights, "test": test_weights, "query": query_weights},
            "{}_weights",
        )
    minima = _per_split("min_num_samples", min_num_samples, weights, 1)
    maxima = _per_split("max_num_samples", max_num_samples, weights, None)
    splitter = WeightedSplitter(
        tuple(minima.items()),
        shuffle,
        random_state_seed,
        tuple(weights.values()),
        tuple(maxima.values()),
        force_equal_per_class,
    )
    return splitter if task is None else splitter(task)


def _check_divisible(task: object) -> None:
    if isinstance(task, type) or not hasattr(task, "attach"):
        raise TypeError(f"`task` must be a meta-dataset or a task, got {task!r}; leave it out for the splitter alone.")


def _per_split(name: str, value: Any, splits: Mapping[str, float], default: int | None) -> dict[str, Any]:
    """One value for every split, from one for all or from a mapping."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(splits, default if value is None else value)
    unknown = sorted(set(value).difference(splits))
    if unknown:
        raise ValueError(f"`{name}` must name splits that have a weight, {unknown[0]!r} has none.")
    return {split: value.get(split, default) for split in splits}


def _named_once(values: Mapping[str, Any], argument: str) -> dict[str, Any]:
    """The values that are not `None`; `train` and `support` name one set, `test` and `query` the other."""
    for first, second in (("train", "support"), ("test", "query")):
        if values[first] is not None and values[second] is not None:
            words = argument.format(first), argument.format(second)
            raise ValueError(f"`{words[0]}` and `{words[1]}` name the same set; pass one of them.")
    return {name: value for name, value in values.items() if value is not None}
