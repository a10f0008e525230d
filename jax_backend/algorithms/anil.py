"""ANIL (Raghu, Raghu, Bengio, Vinyals 2020, arXiv 1909.09157): MAML whose inner loop adapts the head alone."""

from typing import Any

from jax_backend.algorithms.algorithm import Loss
from jax_backend.algorithms.maml import MAML
from jax_backend.apply import Model
from metabridge.adaptation.names import Selection

__all__ = ["ANIL"]


class ANIL(MAML):
    """Almost no inner loop: MAML in which only the parameters that `names` selects adapt, by default the head's.

    Raghu, Raghu, Bengio, Vinyals 2020 (arXiv 1909.09157), section 4.1. The meta-gradient reaches all parameters.

    Args:
        model: see `MAML`.
        loss: see `MAML`.
        names: which parameters adapt.
        options: the other arguments of `MAML`.
    """

    def __init__(self, model: Model, loss: Loss, *, names: Selection = "head.*", **options: Any) -> None:
        super().__init__(model, loss, names=names, **options)
