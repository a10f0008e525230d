"""Sampling rules: the values by which episodes are drawn from a table of classes."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metabridge.episodes.plans import PLAN_LANE, EpisodePlan
from metabridge.episodes.splitters import Splitter
from metabridge.streams import choose_without_replacement, philox_words

__all__ = ["ClassTable", "SamplingRule"]

Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class ClassTable:
    """The classes that episodes are drawn from, as numbers.

    Attributes:
        sizes: `(C,)` examples per class before class augmentation.
        num_classes: C times one plus the number of class augmentations; class id `c` has `sizes[c % C]` examples.
        query_sizes: `(C,)` examples per class of another source, from which all splits but the first come.
        family: identifies the classes, see `MetaDataset.family`; plans carry it.
    """

    sizes: Integers
    num_classes: int
    query_sizes: Integers | None = None
    family: str = ""


@dataclass(frozen=True)
class SamplingRule:
    """N classes a task, and of each as many examples as the splitter says.

    The words of an episode's plan are, in order: N for the classes, N for the labels, then N for every example
    position. So the classes do not depend on the shots, and enlarging the query set keeps the support set.

    Attributes:
        ways: N.
        splitter: the splits, how many examples a class has in each, and whether these are drawn at random.
        permute_labels: whether labels are a random permutation or the class's position.
    """

    ways: int
    splitter: Splitter
    permute_labels: bool = False

    def draw(self, key: tuple[int, int], indices: npt.ArrayLike, table: ClassTable) -> EpisodePlan:
        """Choose classes, labels and examples of the episodes at `indices`.

        Args:
            key: two words from `metabridge.streams.stream_key`.
            indices: `(B,)` episode indices in [0, 2**63).
            table: the classes.

        Raises:
            TypeError: if `indices` are no integers.
            ValueError: if one lies outside [0, 2**63).
        """
        words = philox_words(key, indices, self._num_words(table), PLAN_LANE)
        rows = np.atleast_1d(np.asarray(indices))
        if rows.size and rows.max() >= 2**63:
            raise ValueError(
                f"`indices` must be below 2**63, got {rows.max()}; an episode index is a signed 64-bit integer."
            )
        classes = choose_without_replacement(words[:, : self.ways], table.num_classes)
        return self._plan(key, rows.astype(np.int64), words, classes, table)

    def draw_task(self, key: tuple[int, int], classes: tuple[int, ...], table: ClassTable) -> EpisodePlan:
        """Choose labels and examples of the one task whose classes are given: episode 0 of the stream `key`."""
        row = np.zeros(1, dtype=np.int64)
        words = philox_words(key, row, self._num_words(table), PLAN_LANE)
        return self._plan(key, row, words, np.array([classes]), table)

    def _num_words(self, table: ClassTable) -> int:
        return self.ways * (2 + sum(count for _, count in self.splitter.columns(table.sizes)))

    def _plan(
        self, key: tuple[int, int], indices: Integers, words: Words, classes: Integers, table: ClassTable
    ) -> EpisodePlan:
        count, ways = classes.shape
        labels = np.broadcast_to(np.arange(ways), (count, ways))
        if self.permute_labels:
            labels = choose_without_replacement(words[:, ways : 2 * ways], ways)
        # Position-major words: adding a query example adds words at the end and moves none.
        example_words = words[:, 2 * ways :].reshape(count, words.shape[1] // ways - 2, ways).transpose(0, 2, 1)
        positions = classes % len(table.sizes)
        sizes = table.sizes[positions]
        counts = self.splitter.counts(sizes)
        columns = self.splitter.columns(table.sizes)
        if table.query_sizes is not None:
            examples = self._from_two_sources(example_words, sizes, table.query_sizes[positions], columns[0][1])
        elif self.splitter.is_weighted:
            examples = _choose_counts(example_words, sizes, counts, columns, self.splitter.shuffle)
        else:
            examples = _choose(example_words, sizes, self.splitter.shuffle)
        return EpisodePlan(
            key, indices, classes, labels, examples, columns, counts, self.splitter.is_weighted, table.family
        )

    def _from_two_sources(self, words: Words, sizes: Integers, query_sizes: Integers, support: int) -> Integers:
        """The first `support` columns from classes of `sizes`, the others from classes of `query_sizes`."""
        parts = ((words[..., :support], sizes), (words[..., support:], query_sizes))
        return np.concatenate([_choose(part, of, self.splitter.shuffle) for part, of in parts], axis=2)


def _choose(words: npt.NDArray[np.uint64], sizes: Integers, shuffle: bool) -> Integers:
    """`(B, N, n)` example ids of classes with these sizes `(B, N)`, at random or the first ones."""
    if shuffle:
        return choose_without_replacement(words, sizes)
    return np.broadcast_to(np.arange(words.shape[2]), words.shape)


def _choose_counts(
    words: npt.NDArray[np.uint64],
    sizes: Integers,
    counts: Integers,
    columns: tuple[tuple[str, int], ...],
    shuffle: bool,
) -> Integers:
    """Example ids `(B, N, n)` where class and split decide how many: `counts` `(B, N, S)`, the rest is −1."""
    totals = counts.sum(axis=2)
    before = np.cumsum(counts, axis=2) - counts
    starts = np.cumsum([number for _, number in columns]) - [number for _, number in columns]
    examples = np.full(words.shape, -1, dtype=np.int64)
    for total in np.unique(totals).tolist():  # classes that need as many examples are drawn at once
        rows = np.nonzero(totals == total)
        chosen = _choose(words[rows][:, None, :total], sizes[rows][:, None], shuffle)[:, 0]
        for split, start in enumerate(starts.tolist()):
            slots = np.arange(columns[split][1])
            used = slots < counts[rows][:, split, None]
            source = np.minimum(before[rows][:, split, None] + slots, total - 1)
            part = np.where(used, np.take_along_axis(chosen, source, axis=1), -1)
            examples[rows[0], rows[1], start : start + len(slots)] = part
    return examples
