"""The records of the algorithms."""

from dataclasses import dataclass

from metabridge.checks import is_count, is_positive, require
from metabridge.configs.record import Config

__all__ = ["AlgorithmConfig"]


@dataclass(frozen=True)
class AlgorithmConfig(Config):
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
        require(self.name == "maml", "algorithm", "'maml'", self.name)
        require(is_count(self.inner_steps), "inner_steps", "a positive integer", self.inner_steps)
        require(is_positive(self.inner_lr), "inner_lr", "a positive finite number", self.inner_lr)
        require(isinstance(self.first_order, bool), "first_order", "true or false", self.first_order)
