"""First-order MAML (Finn, Abbeel, Levine 2017, arXiv 1703.03400, section 5.2): MAML without second derivatives."""

from typing import Any

from jax_backend.adjoints import Adjoint, FirstOrder
from jax_backend.algorithms.algorithm import Loss
from jax_backend.algorithms.maml import MAML
from jax_backend.apply import Model

__all__ = ["FirstOrderMAML"]


class FirstOrderMAML(MAML):
    """MAML with the adjoint `FirstOrder()`: the meta-gradient is `∇ L_q(φ_steps)`, taken at the adapted parameters.

    Finn, Abbeel, Levine 2017 (arXiv 1703.03400), section 5.2. It needs the memory of one inner step. Its update is not
    the gradient of its meta-loss.

    Args:
        model: see `MAML`.
        loss: see `MAML`.
        adjoint: `FirstOrder()`.
        options: the other arguments of `MAML`.

    Raises:
        TypeError: if `adjoint` is another one.
    """

    def __init__(
        self,
        model: Model,
        loss: Loss,
        *,
        adjoint: Adjoint = FirstOrder(),  # noqa: B008  # frozen
        **options: Any,
    ) -> None:
        if not isinstance(adjoint, FirstOrder):
            raise TypeError(f"`adjoint` of FirstOrderMAML must be FirstOrder(), got {adjoint!r}; use MAML for others.")
        super().__init__(model, loss, adjoint=adjoint, **options)
