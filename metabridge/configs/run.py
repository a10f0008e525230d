"""The record of one meta-training run."""

from dataclasses import dataclass, field

from metabridge.checks import is_count, require
from metabridge.configs.algorithms import AlgorithmConfig
from metabridge.configs.episode import EpisodeConfig
from metabridge.configs.network import ModelConfig
from metabridge.configs.optimiser import OptimiserConfig
from metabridge.configs.record import Config

__all__ = ["RunConfig"]


@dataclass(frozen=True)
class RunConfig(Config):
    """One meta-training run.

    Attributes:
        dataset: name of the benchmark.
        variant: variant of the benchmark's archives, `None` where there is only one.
        episode: what an episode is.
        model: the network.
        algorithm: the inner loop.
        optimiser: the outer loop.
        meta_batch_size: tasks per meta-step.
        steps: meta-steps.
        seed: decides the episodes and the initial parameters.
    """

    dataset: str = "sinusoid"
    variant: str | None = None
    episode: EpisodeConfig = field(default_factory=lambda: EpisodeConfig(None, 10, 10))
    model: ModelConfig = field(default_factory=ModelConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    meta_batch_size: int = 25
    steps: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        require(is_count(self.meta_batch_size), "meta_batch_size", "a positive integer", self.meta_batch_size)
        require(is_count(self.steps), "steps", "a positive integer", self.steps)
        seed_fits = isinstance(self.seed, int) and not isinstance(self.seed, bool)
        require(seed_fits, "seed", "an integer", self.seed)
        ways = self.episode.ways
        outputs_fit = ways is None or self.model.outputs == ways
        require(outputs_fit, "model.outputs", f"the number of ways, which is {ways}", self.model.outputs)
