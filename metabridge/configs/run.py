"""The record of one meta-training run."""

from dataclasses import dataclass, field

from metabridge.checks import check_instance, check_seed, is_count, require
from metabridge.configs.algorithms import AlgorithmConfig, MAMLConfig
from metabridge.configs.episode import EpisodeConfig
from metabridge.configs.network import ModelConfig
from metabridge.configs.optimiser import OptimiserConfig
from metabridge.configs.record import Config
from metabridge.networks.layers import Chain, Layer
from metabridge.networks.tables import network_layers

__all__ = ["RunConfig"]


@dataclass(frozen=True)
class RunConfig(Config):
    """One meta-training run.

    Attributes:
        dataset: name of the benchmark.
        variant: variant of the benchmark's archives, `None` where there is only one.
        episode: what an episode is.
        model: the network.
        algorithm: the meta-learning algorithm.
        optimiser: of the outer loop.
        meta_batch_size: tasks per meta-step.
        steps: meta-steps.
        test_episodes: episodes of the evaluation after the run.
        seed: decides the episodes and the initial parameters.
    """

    dataset: str = "sinusoid"
    variant: str | None = None
    episode: EpisodeConfig = field(default_factory=lambda: EpisodeConfig(None, 10, 10))
    model: ModelConfig = field(default_factory=ModelConfig)
    algorithm: AlgorithmConfig = field(default_factory=MAMLConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    meta_batch_size: int = 25
    steps: int = 100
    test_episodes: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        check_instance(self.episode, EpisodeConfig, "episode")
        check_instance(self.model, ModelConfig, "model")
        check_instance(self.algorithm, AlgorithmConfig, "algorithm")
        check_instance(self.optimiser, OptimiserConfig, "optimiser")
        require(is_count(self.meta_batch_size), "meta_batch_size", "a positive integer", self.meta_batch_size)
        require(is_count(self.steps), "steps", "a positive integer", self.steps)
        require(is_count(self.test_episodes), "test_episodes", "a positive integer", self.test_episodes)
        seed_fits = isinstance(self.seed, int) and not isinstance(self.seed, bool)
        require(seed_fits, "seed", "an integer", self.seed)
        check_seed(self.seed, "seed")
        ways = self.episode.ways
        solvable = ways is not None or self.algorithm.solves_regression
        wanted = f"one that solves regressions, as {self.dataset} has no classes"
        require(solvable, "algorithm", wanted, self.algorithm.name)
        if self.algorithm.embeds:
            require(self.model.outputs is None, "model.outputs", f"None for {self.algorithm.name}", self.model.outputs)
        else:
            outputs_fit = self.model.outputs == ways if ways is not None else self.model.outputs is not None
            wanted = "a number" if ways is None else f"the number of ways, which is {ways}"
            require(outputs_fit, "model.outputs", wanted, self.model.outputs)

    @property
    def parts(self) -> dict[str, Layer]:
        """`"network"` and the algorithm's own parts → their tables of meta-parameters."""
        network = network_layers(self.model)
        return {"network": network, **self.algorithm.parts(network, self.episode.ways)}

    @property
    def layers(self) -> Chain:
        """The table of all meta-parameters: the network's under their own names, then `<part>.<name>`."""
        network = network_layers(self.model)
        return Chain((*network.layers, *self.algorithm.parts(network, self.episode.ways).items()))
