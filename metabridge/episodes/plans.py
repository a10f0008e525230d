"""Episode plans: the integers that decide an episode, computed without touching an example."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from metabridge.digests import Digest

__all__ = ["PLAN_LANE", "TRANSFORM_LANE", "EpisodePlan"]

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
        counts: `(B, N, S)` how many of its columns each class uses in each of S splits.
        is_weighted: whether `counts` follow the sizes of classes, as with a `WeightedClassSplitter`. Then `splits`
            holds the largest numbers there can be, unused columns hold −1, and `counts` are part of the digest.
        family: the meta-dataset's `family`, which says what class ids mean; not part of the digest. A plan of an
            unknown family, `""`, is gathered by any meta-dataset.
    """

    key: tuple[int, int]
    indices: Integers
    classes: Integers
    labels: Integers
    examples: Integers
    splits: tuple[tuple[str, int], ...]
    counts: Integers
    is_weighted: bool = False
    family: str = ""

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
            self.counts[rows],
            self.is_weighted,
            self.family,
        )

    def split_columns(self) -> list[tuple[str, slice]]:
        """For every split its name and the columns of `examples` it owns."""
        ends = np.cumsum([count for _, count in self.splits]).tolist()
        return [(name, slice(end - count, end)) for (name, count), end in zip(self.splits, ends, strict=True)]

    def masks(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Split → `(B, n)`: whether an example of the batch's arrays is there, or padding behind a shorter episode.

        n is the number of examples of the episode that has most. Where all episodes have as many, every entry is true
        and the array takes no memory.
        """
        masks = {}
        count, ways = self.classes.shape
        for position, (name, width) in enumerate(self.splits):
            if self.is_weighted and count:
                lengths = self.counts[:, :, position].sum(axis=1)
                masks[name] = np.arange(lengths.max()) < lengths[:, None]
            else:
                masks[name] = np.broadcast_to(np.True_, (count, ways * width))
        return masks

    def digest(self) -> str:
        """Hexadecimal BLAKE2b of every integer of the plan; equal plans have equal digests on every machine."""
        digest = Digest(repr((self.key, self.splits)))
        arrays = (self.indices, self.classes, self.labels, self.examples)
        for array in (*arrays, self.counts) if self.is_weighted else arrays:
            digest.add(repr(array.shape)).add_array(array, "<i8")
        return digest.hexadecimal()
