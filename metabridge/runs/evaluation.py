"""An evaluation over test episodes: its record, and the episodes it sees."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.checks import check_count, check_instance, require
from metabridge.episodes.batches import PADDING
from metabridge.episodes.loader import EpisodeLoader
from metabridge.episodes.metadatasets import MetaDataset
from metabridge.episodes.segmentation import SegmentationMetaDataset
from metabridge.runs.statistics import mean_and_ci95
from metabridge.transforms import IGNORED

__all__ = ["Evaluation", "check_algorithm", "evaluation_loader", "ignored_target", "measure_name"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The quality of every test episode.

    >>> print(Evaluation(np.array([0.9, 0.95, 1.0, 0.92]), "accuracy"))
    0.94 ± 0.04

    Attributes:
        values: `(episodes,)` float64, in the order of the episodes.
        measure: what they are: `"accuracy"`, `"mean squared error"`, or the name of another function.
    """

    values: npt.NDArray[np.float64]
    measure: str

    @classmethod
    def of(cls, batches: Iterable[npt.ArrayLike], episodes: int, measure: str) -> "Evaluation":
        """The record of the first `episodes` values of batches, each `(B,)`.

        Raises:
            ValueError: if a batch is no row of numbers.
        """
        rows = [np.asarray(values, np.float64) for values in batches]
        for row in rows:
            require(row.ndim == 1, "measure", "a function with one number for each task", f"shape {row.shape}")
        return cls(np.concatenate(rows)[:episodes], measure)

    @property
    def mean(self) -> float:
        """The mean over the episodes."""
        return mean_and_ci95(self.values)[0]

    @property
    def ci95(self) -> float:
        """Half-width of the 95 % confidence interval of the mean; see `mean_and_ci95`."""
        return mean_and_ci95(self.values)[1]

    def __len__(self) -> int:
        return len(self.values)

    def __str__(self) -> str:
        """Mean and interval; the interval has one digit, or two where the first is 1."""
        decimals = _decimals(self.ci95)
        return f"{self.mean:.{decimals}f} ± {self.ci95:.{decimals}f}"

    def __repr__(self) -> str:
        return f"Evaluation({self.measure} {self}, {len(self)} episodes)"


def _decimals(half_width: float) -> int:
    """Decimals of an interval: 0.0042 has three, 0.015 too."""
    if not math.isfinite(half_width) or half_width <= 0:
        return 3
    digits, exponent = f"{half_width:.0e}".split("e")
    return max(0, -int(exponent) + (digits == "1"))


def evaluation_loader(dataset: MetaDataset, episodes: int, batch_size: int, seed: int | None = None) -> EpisodeLoader:
    """Whole batches with the episodes 0 to `episodes` − 1 of a seed, and what fills the last batch.

    A batch that is shorter would make JAX compile once more. `Evaluation.of` leaves the surplus out.

    Args:
        dataset: a meta-dataset with a splitter.
        episodes: how many count.
        batch_size: episodes that are computed together.
        seed: seed of the episodes; `None` takes the dataset's.

    Raises:
        TypeError: if `dataset` is no meta-dataset.
        ValueError: for counts below 1, or a meta-dataset without support and query sets.
    """
    check_instance(dataset, MetaDataset, "dataset", "pass a meta-dataset with a splitter")
    check_count(episodes, "episodes")
    check_count(batch_size, "batch_size")
    splitter = dataset.dataset_transform  # which a meta-dataset of Torchmeta's kind may hold and apply itself
    names = [name for name, _ in splitter.splits] if splitter else []
    require(
        {"train", "test"} <= set(names),
        "dataset",
        "a meta-dataset with a support set 'train' and a query set 'test'",
        dataset,
        "attach a splitter with ClassSplitter(dataset, num_train_per_class=…, num_test_per_class=…)",
    )
    size = min(batch_size, episodes)
    # An evaluation repeats its episodes on purpose, so a seed is named, of which no loader warns.
    return EpisodeLoader(dataset, size, -(-episodes // size), dataset.current_seed if seed is None else seed)


def check_algorithm(algorithm: object) -> None:
    """Raise `TypeError` unless an algorithm predicts: one of a backend's `algorithms`, or one's own."""
    if isinstance(algorithm, type) or not callable(getattr(algorithm, "predict", None)):
        raise TypeError(
            f"`algorithm` must be an algorithm with a method `predict`, got {algorithm!r}; make one, such as MAML(…)."
        )


def ignored_target(dataset: MetaDataset) -> int:
    """The target that does not count: of pixels in masks, and of padding elsewhere."""
    return IGNORED if isinstance(dataset, SegmentationMetaDataset) else PADDING


def measure_name(measure: Any) -> str:
    """The name of a function that measures quality, in words; of a partial one that of the function inside."""
    function = getattr(measure, "func", measure)
    return str(getattr(function, "__name__", type(function).__name__)).replace("_", " ")
