"""Splitters: how many examples of each class are support and how many are query."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from metabridge.metadatasets import MetaDataset

__all__ = ["ClassSplitter", "Splitter"]


@dataclass(frozen=True)
class Splitter:
    """The rule that divides the examples of every class of a task into named, disjoint splits.

    Attributes:
        splits: pairs (name, examples per class), in the order of the batch's keys.
        shuffle: draw the examples at random; otherwise a class's first examples are the first split, the next
            ones the second, and so on.
        random_state_seed: another value makes other episodes for the same seed and index.
    """

    splits: tuple[tuple[str, int], ...]
    shuffle: bool = True
    random_state_seed: int = 0

    def __post_init__(self) -> None:
        if not self.splits:
            raise ValueError(
                "a splitter needs at least one split, got none; "
                "pass for example num_train_per_class=5, num_test_per_class=15."
            )
        for name, count in self.splits:
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"`num_samples_per_class[{name!r}]` must be a positive integer, got {count!r}.")
        names = [name for name, _ in self.splits]
        if len(set(names)) != len(names):
            raise ValueError(f"`splits` must have distinct names, got {names}.")
        if isinstance(self.random_state_seed, bool) or not isinstance(self.random_state_seed, int):
            raise TypeError(f"`random_state_seed` must be an integer, got {self.random_state_seed!r}.")

    @property
    def examples_per_class(self) -> int:
        """Examples of each class that an episode uses, over all splits."""
        return sum(count for _, count in self.splits)

    def __len__(self) -> int:
        return len(self.splits)

    def __call__(self, dataset: "MetaDataset") -> "MetaDataset":
        """Attach this splitter to a meta-dataset and return the same meta-dataset."""
        return dataset.attach(self)


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
    task: "MetaDataset",
    shuffle: bool = True,
    num_samples_per_class: Mapping[str, int] | None = None,
    num_train_per_class: int | None = None,
    num_test_per_class: int | None = None,
    num_support_per_class: int | None = None,
    num_query_per_class: int | None = None,
    random_state_seed: int = 0,
) -> "MetaDataset": ...
def ClassSplitter(  # noqa: N802
    task: "MetaDataset | None" = None,
    shuffle: bool = True,
    num_samples_per_class: Mapping[str, int] | None = None,
    num_train_per_class: int | None = None,
    num_test_per_class: int | None = None,
    num_support_per_class: int | None = None,
    num_query_per_class: int | None = None,
    random_state_seed: int = 0,
) -> "Splitter | MetaDataset":
    """The same number of examples of every class in each split, as Torchmeta's function of this name.

    `num_samples_per_class` wins over the other counts; `num_train_per_class` and `num_support_per_class` both
    name the support set (key `"train"`, or `"support"` if given by that name), `num_test_per_class` and
    `num_query_per_class` the query set. For regression a whole task counts as one class.

    >>> ClassSplitter(num_train_per_class=1, num_test_per_class=15).splits
    (('train', 1), ('test', 15))

    Args:
        task: a meta-dataset to attach the splitter to, or `None` for the splitter alone
            (to be passed as `dataset_transform`).
        shuffle: draw the examples at random from the episode's stream.
        num_samples_per_class: split name → examples per class.
        num_train_per_class: support examples per class, under the key `"train"`.
        num_test_per_class: query examples per class, under the key `"test"`.
        num_support_per_class: the same under the key `"support"`.
        num_query_per_class: the same under the key `"query"`.
        random_state_seed: another value makes other episodes for the same seed and index.

    Returns:
        The splitter, or the given meta-dataset with the splitter attached.

    Raises:
        ValueError: without any count, for a count below 1, for the same set named twice, or when a class of
            `task` has too few examples.
    """
    if num_samples_per_class is None:
        for first, second, words in (
            (num_train_per_class, num_support_per_class, ("num_train_per_class", "num_support_per_class")),
            (num_test_per_class, num_query_per_class, ("num_test_per_class", "num_query_per_class")),
        ):
            if first is not None and second is not None:
                raise ValueError(f"`{words[0]}` and `{words[1]}` name the same set; pass one of them.")
        counts = {
            "train": num_train_per_class,
            "support": num_support_per_class,
            "test": num_test_per_class,
            "query": num_query_per_class,
        }
        num_samples_per_class = {name: count for name, count in counts.items() if count is not None}
    splitter = Splitter(tuple(num_samples_per_class.items()), shuffle, random_state_seed)
    return splitter if task is None else splitter(task)
