"""The context of a rewritten function: the settings it obeys and the running statistics it moves."""

from typing import Protocol

from torch import Tensor

__all__ = ["Context"]


class Context(Protocol):
    """The part of `ExactDerivatives` that a rewritten function sees, as its first argument.

    Attributes:
        frozen: whether normalisation uses the running statistics in training mode too.
        observing: whether to compute new running statistics and put them aside.
        missing_only: whether to help only where torch has no second derivative at all.
    """

    frozen: bool
    observing: bool
    missing_only: bool

    def latest(self, statistic: Tensor) -> Tensor:
        """The running statistic that takes the place of a given one."""

    def update(self, statistic: Tensor, observed: Tensor, momentum: float) -> None:
        """Put a running statistic aside."""
