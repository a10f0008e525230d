"""Small meta-learning problems, one table for all tests: a run, its episodes, its initial parameters."""

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from metabridge.configs import EpisodeConfig, MAMLConfig, ModelConfig, RunConfig
from metabridge.episodes.batches import EpisodeBatch
from metabridge.episodes.metadatasets import CombinationMetaDataset, MetaDataset
from metabridge.episodes.splitters import ClassSplitter
from metabridge.networks.parameters import Parameters, initial_parameters
from metabridge.sources import ArraySource
from metabridge.toy.helpers import sinusoid

__all__ = ["PROBLEMS", "Problem", "binary_images", "vectors"]


@functools.cache
def binary_images(size: int) -> ArraySource:
    """6 classes of 8 drawings in black and white: large constant areas, many exact ties."""
    rng = np.random.default_rng(0)
    strokes = rng.random((6, 8, size // 4, size // 4, 1)) > 0.6
    images = strokes.repeat(4, axis=2).repeat(4, axis=3).astype(np.uint8) * 255
    return ArraySource.from_classes({f"class{i}": each for i, each in enumerate(images)})


@functools.cache
def vectors() -> ArraySource:
    """6 classes of 8 feature vectors."""
    features = np.random.default_rng(1).standard_normal((6, 8, 4)).astype(np.float32)
    return ArraySource.from_classes({f"class{i}": each for i, each in enumerate(features)})


@dataclass(frozen=True)
class Problem:
    """A run that a test can afford.

    Attributes:
        run: what is computed.
        source: where classification takes its classes from, `None` for sinusoids.
        tolerance: kind of agreement of its meta-gradients, see `tolerances.LIMITS`.
    """

    run: RunConfig
    source: ArraySource | None
    tolerance: str

    def dataset(self) -> MetaDataset:
        """The meta-dataset with its splitter."""
        episode = self.run.episode
        if self.source is None:
            return sinusoid(episode.shots, test_shots=episode.test_shots)
        dataset = CombinationMetaDataset(self.source, episode.ways)
        splitter = ClassSplitter(num_train_per_class=episode.shots, num_test_per_class=episode.test_shots)
        return dataset.attach(splitter)

    def batch(self, first: int = 0) -> EpisodeBatch:
        """A meta-batch of episodes."""
        return self.dataset().episodes(range(first, first + self.run.meta_batch_size), seed=0)

    def parameters(self) -> Parameters:
        """Initial parameters, float64."""
        drawn = initial_parameters(self.run.layers, self.run.seed)
        return {name: array.astype(np.float64) for name, array in drawn.items()}

    def perturbed(self, size: float = 0.1) -> Parameters:
        """Parameters at no special point: batch normalisation too is neither 1 nor 0."""
        rng = np.random.default_rng(2)
        return {name: array + size * rng.standard_normal(array.shape) for name, array in self.parameters().items()}

    def with_algorithm(self, **changes: Any) -> "Problem":
        """The same with another inner loop."""
        return replace(self, run=replace(self.run, algorithm=replace(self.run.algorithm, **changes)))


def _problem(
    episode: EpisodeConfig,
    model: ModelConfig,
    algorithm: MAMLConfig,
    source: ArraySource | None = None,
) -> Problem:
    run = RunConfig("made", None, episode, model, algorithm, meta_batch_size=3)
    return Problem(run, source, f"meta_gradient_{model.name}")


PROBLEMS = {
    "sinusoid": _problem(EpisodeConfig(None, 5, 6), ModelConfig("mlp", (1,), 1, (7, 5)), MAMLConfig(1, 0.1)),
    "sinusoid, 3 steps": _problem(EpisodeConfig(None, 5, 6), ModelConfig("mlp", (1,), 1, (7, 5)), MAMLConfig(3, 0.05)),
    "vectors": _problem(EpisodeConfig(3, 2, 3), ModelConfig("mlp", (4,), 3, (8,)), MAMLConfig(2, 0.4), vectors()),
    "images": _problem(
        EpisodeConfig(3, 1, 3),
        ModelConfig("conv4", (28, 28, 1), 3, (4, 3, 4, 5)),
        MAMLConfig(1, 0.4),
        binary_images(28),
    ),
    "images, 2 steps": _problem(
        EpisodeConfig(3, 2, 2),
        ModelConfig("conv4", (16, 16, 1), 3, (3, 3, 3, 3)),
        MAMLConfig(2, 0.1),
        binary_images(16),
    ),
}
"""Name → problem."""
