"""Meta-SGD (Li, Zhou, Chen, Li 2017, arXiv 1707.09835): MAML that learns the rate of every entry."""

from collections.abc import Mapping
from typing import Any

from metabridge.adaptation.task_maps import TaskMap
from metabridge.configs import MAMLConfig
from metabridge.networks.parts import NETWORK, part_of
from torch_backend.adjoints import FirstOrder, Unrolled
from torch_backend.algorithms.algorithm import Loss
from torch_backend.algorithms.maml import MAML
from torch_backend.apply import Model
from torch_backend.optimisers import Optimiser, sgd

__all__ = ["MetaSGD"]


class MetaSGD(MAML):
    """MAML with a learned rate for every entry of the parameters: a step's direction and length are learned.

    With θ = `params["network"]` and α = `params["rates"]`, a tree like θ:

        φ_0 = θ,  φ_{k+1} = φ_k − α ∘ ∇ L_s(φ_k)  for k < steps,  meta-loss = L_q(φ_steps)

    Li, Zhou, Chen, Li 2017 (arXiv 1707.09835), equation 2 and algorithm 1, for one step. The paper draws the first α
    from [0.005, 0.1]; the record starts every entry at `inner_lr`. A rate may become negative.

    Args:
        model: see `MAML`.
        loss: see `MAML`.
        options: the other arguments of `MAML` but `optimiser`.
    """

    def __init__(self, model: Model, loss: Loss, **options: Any) -> None:
        super().__init__(model, loss, optimiser=sgd(1.0), **options)

    @classmethod
    def from_config(
        cls,
        config: MAMLConfig,
        modules: Mapping[str, Model],
        loss: Loss,
        ways: int | None,
        task_map: TaskMap = "auto",
    ) -> "MetaSGD":
        """The algorithm of a record."""
        del ways
        adjoint = FirstOrder() if config.first_order else Unrolled()
        return cls(modules["network"], loss, steps=config.inner_steps, adjoint=adjoint, task_map=task_map)

    def initial(self, params: Any) -> Any:
        """θ."""
        return part_of(params, NETWORK)

    def inner_optimiser(self, params: Any) -> Optimiser:
        """Gradient descent with the rates α."""
        return sgd(part_of(params, "rates"))
