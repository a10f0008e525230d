"""The record of the outer optimiser."""

from dataclasses import dataclass

from metabridge.checks import is_positive, require
from metabridge.configs.record import Config

__all__ = ["OptimiserConfig"]


@dataclass(frozen=True)
class OptimiserConfig(Config):
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
        require(is_positive(self.learning_rate), "learning_rate", "a positive finite number", self.learning_rate)
        betas_fit = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require(betas_fit, "betas", "two numbers in [0, 1)", self.betas)
        require(is_positive(self.eps), "eps", "a positive finite number", self.eps)
