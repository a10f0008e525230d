"""Episode plans: the integers that decide an episode, computed without touching an example."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metabridge.digests import Digest
from metabridge.episodes.splitters import Splitter, WeightedSplitter
from metabridge.streams import choose_without_replacement, philox_words

__all__ = ["PLAN_LANE", "TRANSFORM_LANE", "EpisodePlan", "draw_plan", "plan_examples"]

Integers = npt.NDArray[np.int64]

PLAN_LANE = 0
"""Lane of an episode's stream that decides its plan; other lanes hold toy values and image transforms."""

TRANSFORM_LANE = 16
"""Lane of the first image transform; the next transforms have the next lanes."""


@dataclass(frozen=True, eq=False)
class EpisodePlan:
    """A batch of B episodes, as integers. Compare plans by `digest()`.

    Attributes:
        key: two 64-bit words, the address of the stream that the episodes were drawn from.
        indices: `(B,)` episode indices within that stream.
        classes: `(B, N)` class ids of each task, in the task's class order (a toy problem has N = 1: the task's id).
        labels: `(B, N)` the integer label of each class.
        examples: `(B, N, n)` example ids within each class, split after split.
        splits: pairs (split name, examples per class), in the order in which `examples` holds them.
        counts: `None`, or with a `WeightedClassSplitter` `(B, N, S)` how many of its columns each class uses in
            each of S splits; the unused ones hold −1, and `splits` holds the largest numbers there can be.
    """

    key: tuple[int, int]
    indices: Integers
    classes: Integers
    labels: Integers
    examples: Integers
    splits: tuple[tuple[str, int], ...]
    counts: Integers | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, rows: slice) -> "EpisodePlan":
        """The plan of some of the episodes."""
        return EpisodePlan(
            self.key,
            self.indices[rows],
            self.classes[rows],
            self.labels[rows],
            self.examples[rows],
            self.splits,
            None if self.counts is None else self.counts[rows],
        )

    def split_columns(self) -> list[tuple[str, slice]]:
        """For every split its name and the columns of `examples` it owns."""
        ends = np.cumsum([count for _, count in self.splits]).tolist()
        return [(name, slice(end - count, end)) for (name, count), end in zip(self.splits, ends, strict=True)]

    def digest(self) -> str:
        """Hexadecimal BLAKE2b of every integer of the plan; equal plans have equal digests on every machine."""
        digest = Digest(repr((self.key, self.splits)))
        arrays = (self.indices, self.classes, self.labels, self.examples)
        for array in arrays if self.counts is None else (*arrays, self.counts):
            digest.add(repr(array.shape)).add_array(array, "<i8")
        return digest.hexadecimal()


def draw_plan(
    key: tuple[int, int],
    indices: npt.ArrayLike,
    class_sizes: Integers,
    num_classes: int,
    ways: int,
    splitter: Splitter,
    permute_labels: bool,
    query_sizes: Integers | None = None,
) -> EpisodePlan:
    """Choose classes, labels and examples of the episodes at `indices`.

    The words of an episode's plan are, in order: N for the classes, N for the labels, then N for every example
    position. So the classes do not depend on the shots, and enlarging the query set keeps the support set.

    Args:
        key: two words from `metabridge.streams.stream_key`.
        indices: `(B,)` episode indices in [0, 2**63).
        class_sizes: `(C,)` examples per class before class augmentation.
        num_classes: C times one plus the number of class augmentations.
        ways: N.
        splitter: the splits and whether to draw the examples at random.
        permute_labels: whether labels are a random permutation or the class's position.
        query_sizes: `(C,)` examples per class of another source, from which all splits but the first come.
    """
    taken = sum(count for _, count in splitter.columns(class_sizes))
    words = philox_words(key, indices, ways * (2 + taken), PLAN_LANE)
    rows = np.atleast_1d(np.asarray(indices))
    if rows.size and rows.max() >= 2**63:
        raise ValueError(
            f"`indices` must be below 2**63, got {rows.max()}; an episode index is a signed 64-bit integer."
        )
    rows = rows.astype(np.int64)
    classes = choose_without_replacement(words[:, :ways], num_classes)
    return plan_examples(key, rows, words, classes, class_sizes, splitter, permute_labels, query_sizes)


def plan_examples(
    key: tuple[int, int],
    indices: Integers,
    words: npt.NDArray[np.uint64],
    classes: Integers,
    class_sizes: Integers,
    splitter: Splitter,
    permute_labels: bool,
    query_sizes: Integers | None = None,
) -> EpisodePlan:
    """The plan of episodes whose `classes` `(B, N)` are already known; `words` as in `draw_plan`."""
    count, ways = classes.shape
    positions = np.broadcast_to(np.arange(ways), (count, ways))
    labels = choose_without_replacement(words[:, ways : 2 * ways], ways) if permute_labels else positions
    columns = splitter.columns(class_sizes)
    taken = sum(number for _, number in columns)
    # Position-major words: adding a query example adds words at the end and moves none.
    example_words = words[:, 2 * ways :].reshape(count, taken, ways).transpose(0, 2, 1)
    own = classes % len(class_sizes)
    if isinstance(splitter, WeightedSplitter):
        counts = splitter.counts(splitter.effective_sizes(class_sizes[own]))
        examples = _choose_counts(example_words, class_sizes[own], counts, columns, splitter.shuffle)
        return EpisodePlan(key, indices, classes, labels, examples, columns, counts)
    if query_sizes is None:
        examples = _choose(example_words, class_sizes[own], splitter.shuffle)
    else:
        support = columns[0][1]
        parts = ((example_words[..., :support], class_sizes), (example_words[..., support:], query_sizes))
        chosen = [_choose(part, sizes[own], splitter.shuffle) for part, sizes in parts]
        examples = np.concatenate(chosen, axis=2)
    return EpisodePlan(key, indices, classes, labels, examples, columns)


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
