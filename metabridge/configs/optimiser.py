"""The record of the outer optimiser."""

from dataclasses import dataclass, fields

from metabridge.checks import check_choice, check_positive, is_number, require
from metabridge.configs.record import Config

__all__ = ["OptimiserConfig"]

_OWN = {"adam": ("betas", "eps"), "sgd": ("momentum",)}
"""Optimiser → the settings that it alone has."""


@dataclass(frozen=True)
class OptimiserConfig(Config):
    """The optimiser of the outer loop. A setting that the named optimiser does not have keeps its default.

    Attributes:
        name: `"adam"` (Kingma, Ba 2015, arXiv 1412.6980) or `"sgd"`.
        learning_rate: step size (MAML's beta).
        betas: Adam's decay rates of the first and second moment.
        eps: what Adam adds to the root of the second moment.
        momentum: share of the last step's velocity that SGD keeps.
    """

    name: str = "adam"
    learning_rate: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.0

    def __post_init__(self) -> None:
        check_choice(self.name, "name", _OWN)
        check_positive(self.learning_rate, "learning_rate")
        betas_fit = (
            isinstance(self.betas, (tuple, list))
            and len(self.betas) == 2
            and all(is_number(beta) and 0 <= beta < 1 for beta in self.betas)
        )
        require(betas_fit, "betas", "two numbers in [0, 1)", self.betas)
        check_positive(self.eps, "eps")
        require(is_number(self.momentum) and 0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        defaults = {each.name: each.default for each in fields(self)}
        for other in _OWN.keys() - {self.name}:
            for setting in _OWN[other]:
                value, default = getattr(self, setting), defaults[setting]
                require(value == default, setting, f"left out for {self.name}, which has none", value)

    def describe(self) -> str:
        """The optimiser and its step size in a few words."""
        return f"{'Adam' if self.name == 'adam' else 'SGD'} with {self.learning_rate:g}"
