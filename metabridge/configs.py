"""Frozen records of every choice a run makes; they validate themselves and go to and from JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

__all__ = ["AlgorithmConfig", "EpisodeConfig", "ModelConfig", "OptimiserConfig", "RunConfig"]


def _require(condition: bool, name: str, constraint: str, value: object) -> None:
    if not condition:
        raise ValueError(f"`{name}` must be {constraint}, got {value!r}.")


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < float("inf")


class _Config:
    """To and from JSON-ready dictionaries."""

    def to_dict(self) -> dict[str, Any]:
        """The record as nested dictionaries of JSON-ready values."""
        return asdict(self)  # type: ignore[call-overload]  # every subclass is a dataclass

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The record from what `to_dict` gave, also after a round trip through JSON.

        Raises:
            ValueError: for an unknown field, naming the known ones.
        """
        known = {each.name: each for each in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"{cls.__name__} has no field {unknown[0]!r}; it has {', '.join(known)}.")
        return cls(**{name: _restore(known[name].type, value) for name, value in values.items()})


def _restore(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, _Config):
        return kind.from_dict(value)
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class EpisodeConfig(_Config):
    """What an episode is.

    Attributes:
        ways: N, classes per task; `None` for regression.
        shots: support examples per class.
        test_shots: query examples per class.
    """

    ways: int | None = 5
    shots: int = 1
    test_shots: int = 15

    def __post_init__(self) -> None:
        _require(
            self.ways is None or _is_count(self.ways, 2),
            "ways",
            "an integer of at least 2, or None",
            self.ways,
        )
        _require(_is_count(self.shots), "shots", "a positive integer", self.shots)
        _require(_is_count(self.test_shots), "test_shots", "a positive integer", self.test_shots)


@dataclass(frozen=True)
class ModelConfig(_Config):
    """Which network, from what shape to how many outputs.

    Attributes:
        name: `"mlp"` (fully connected, ReLU), `"conv4"` (four blocks of 3×3 convolution, batch normalisation
            over the current batch, ReLU and 2×2 max-pooling, then a linear head; Vinyals et al. 2016) or
            `"resnet12"` (four residual blocks of three convolutions, average pooling, then a linear head;
            Oreshkin et al. 2018).
        input_shape: shape of one example: `(features,)` for the MLP, `(H, W, channels)` for the others.
        outputs: number of outputs: ways, or 1 for regression.
        hidden: widths of the MLP's hidden layers; channels of each of the four blocks of Conv4 (often 64)
            and ResNet-12 (64, 160, 320 and 640 in Lee et al. 2019).
    """

    name: str = "mlp"
    input_shape: tuple[int, ...] = (1,)
    outputs: int = 1
    hidden: tuple[int, ...] = (40, 40)

    def __post_init__(self) -> None:
        _require(self.name in ("mlp", "conv4", "resnet12"), "name", "'mlp', 'conv4' or 'resnet12'", self.name)
        axes = 1 if self.name == "mlp" else 3
        shape_fits = len(self.input_shape) == axes and all(_is_count(size) for size in self.input_shape)
        _require(shape_fits, "input_shape", f"{axes} positive integers for {self.name}", self.input_shape)
        _require(_is_count(self.outputs), "outputs", "a positive integer", self.outputs)
        hidden_fits = len(self.hidden) > 0 and all(_is_count(width) for width in self.hidden)
        _require(hidden_fits, "hidden", "one or more positive integers", self.hidden)
        if self.name != "mlp":
            _require(len(self.hidden) == 4, "hidden", f"four integers for {self.name}", self.hidden)
            least = min(self.input_shape[:2])
            _require(
                least >= 16,
                "input_shape",
                f"at least 16×16 pixels for {self.name}'s four poolings",
                self.input_shape,
            )


@dataclass(frozen=True)
class AlgorithmConfig(_Config):
    """Which meta-learning algorithm, with what inner loop.

    Attributes:
        name: `"maml"` (Finn et al. 2017).
        inner_steps: gradient steps on the support set.
        inner_lr: step size of the inner loop (the paper's alpha).
        first_order: drop the second derivatives (the paper's first-order approximation).
    """

    name: str = "maml"
    inner_steps: int = 1
    inner_lr: float = 0.01
    first_order: bool = False

    def __post_init__(self) -> None:
        _require(self.name == "maml", "algorithm", "'maml'", self.name)
        _require(_is_count(self.inner_steps), "inner_steps", "a positive integer", self.inner_steps)
        _require(_is_positive(self.inner_lr), "inner_lr", "a positive finite number", self.inner_lr)
        _require(isinstance(self.first_order, bool), "first_order", "true or false", self.first_order)


@dataclass(frozen=True)
class OptimiserConfig(_Config):
    """The outer loop's Adam (Kingma & Ba 2015).

    Attributes:
        learning_rate: step size (MAML's beta).
        betas: decay rates of the first and second moment.
        eps: added to the root of the second moment.
    """

    learning_rate: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _require(_is_positive(self.learning_rate), "learning_rate", "a positive finite number", self.learning_rate)
        betas_fit = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        _require(betas_fit, "betas", "two numbers in [0, 1)", self.betas)
        _require(_is_positive(self.eps), "eps", "a positive finite number", self.eps)


@dataclass(frozen=True)
class RunConfig(_Config):
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
        _require(_is_count(self.meta_batch_size), "meta_batch_size", "a positive integer", self.meta_batch_size)
        _require(_is_count(self.steps), "steps", "a positive integer", self.steps)
        seed_fits = isinstance(self.seed, int) and not isinstance(self.seed, bool)
        _require(seed_fits, "seed", "an integer", self.seed)
        ways = self.episode.ways
        outputs_fit = ways is None or self.model.outputs == ways
        _require(outputs_fit, "model.outputs", f"the number of ways, which is {ways}", self.model.outputs)
