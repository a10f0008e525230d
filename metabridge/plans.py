"""Episode plans: the integers that decide an episode, computed without touching an example."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metabridge.splitters import Splitter
from metabridge.streams import choose_without_replacement, philox_words

__all__ = ["PLAN_LANE", "EpisodePlan", "draw_plan", "plan_examples"]

Integers = npt.NDArray[np.int64]

PLAN_LANE = 0
"""Lane of an episode's stream that decides its plan; other lanes hold toy values and image transforms."""


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
    """

    key: tuple[int, int]
    indices: Integers
    classes: Integers
    labels: Integers
    examples: Integers
    splits: tuple[tuple[str, int], ...]

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
        )

    def split_columns(self) -> list[tuple[str, slice]]:
        """For every split its name and the columns of `examples` it owns."""
        ends = np.cumsum([count for _, count in self.splits]).tolist()
        return [(name, slice(end - count, end)) for (name, count), end in zip(self.splits, ends, strict=True)]

    def digest(self) -> str:
        """Hexadecimal BLAKE2b of every integer of the plan; equal plans have equal digests on every machine."""
        state = hashlib.blake2b(digest_size=16)
        state.update(repr((self.key, self.splits)).encode())
        for array in (self.indices, self.classes, self.labels, self.examples):
            state.update(repr(array.shape).encode())
            state.update(np.ascontiguousarray(array, dtype="<i8").data)
        return state.hexdigest()


def draw_plan(
    key: tuple[int, int],
    indices: npt.ArrayLike,
    class_sizes: Integers,
    num_classes: int,
    ways: int,
    splitter: Splitter,
    permute_labels: bool,
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
    """
    words = philox_words(key, indices, ways * (2 + splitter.examples_per_class), PLAN_LANE)
    rows = np.atleast_1d(np.asarray(indices))
    if rows.size and rows.max() >= 2**63:
        raise ValueError(
            f"`indices` must be below 2**63, got {rows.max()}; an episode index is a signed 64-bit integer."
        )
    rows = rows.astype(np.int64)
    classes = choose_without_replacement(words[:, :ways], num_classes)
    return plan_examples(key, rows, words, classes, class_sizes, splitter, permute_labels)


def plan_examples(
    key: tuple[int, int],
    indices: Integers,
    words: npt.NDArray[np.uint64],
    classes: Integers,
    class_sizes: Integers,
    splitter: Splitter,
    permute_labels: bool,
) -> EpisodePlan:
    """The plan of episodes whose `classes` `(B, N)` are already known; `words` as in `draw_plan`."""
    count, ways = classes.shape
    positions = np.broadcast_to(np.arange(ways), (count, ways))
    labels = choose_without_replacement(words[:, ways : 2 * ways], ways) if permute_labels else positions
    taken = splitter.examples_per_class
    if splitter.shuffle:
        # Position-major words: adding a query example adds words at the end and moves none.
        example_words = words[:, 2 * ways :].reshape(count, taken, ways).transpose(0, 2, 1)
        examples = choose_without_replacement(example_words, class_sizes[classes % len(class_sizes)])
    else:
        examples = np.broadcast_to(np.arange(taken), (count, ways, taken))
    return EpisodePlan(key, indices, classes, labels, examples, splitter.splits)
