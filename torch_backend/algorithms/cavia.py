"""CAVIA (Zintgraf et al. 2019, arXiv 1810.03642): a task adapts a small context, and never the network."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from metabridge.adaptation.names import check_unknown
from metabridge.adaptation.task_maps import TaskMap
from metabridge.adaptation.trees import flatten, unflatten
from metabridge.configs import CAVIAConfig
from metabridge.networks.parts import part_of
from torch_backend.adjoints import FirstOrder, Unrolled
from torch_backend.algorithms.algorithm import Algorithm, Loss
from torch_backend.algorithms.maml import MAML
from torch_backend.apply import Model
from torch_backend.optimisers import sgd
from torch_backend.tasks import Batch, Randomness

__all__ = ["CAVIA"]


class CAVIA(Algorithm):
    """Fast context adaptation: MAML whose inner loop adapts a vector that steers the network, and nothing else.

    With θ = `params["network"]` and a map M_p = `params["maps"][p]`, `(shape of p, C)`, for some parameters p of the
    network, a context φ of C numbers stands for the network

        θ(φ): p + M_p φ for every p with a map, the other parameters as they are

    and a task with support loss `L_s` and query loss `L_q` adapts it from 0:

        φ_0 = 0,  φ_{k+1} = φ_k − α ∇_φ L_s(θ(φ_k))  for k < steps,  meta-loss = L_q(θ(φ_steps))

    Zintgraf, Shiarlis, Kurin, Hofmann, Whiteson 2019 (arXiv 1810.03642), equations 4 and 5. The paper concatenates φ to
    the inputs of the first layer: W x + M φ + b, which is here a map for that layer's bias. For images it modulates
    channels, γ ∘ h + β with γ and β affine in φ (FiLM), which is here a map for the weight and the bias of a batch
    normalisation; the paper does so in one layer, the record in all. The paper's sizes are C = 5, steps of 1.0
    (sinusoids) and C = 100 (images).

    Args:
        model: see `MAML`.
        loss: see `MAML`.
        task_map: see `Algorithm`.
        randomness: see `Algorithm`.
        options: the other arguments of `MAML` but `names`.

    Raises:
        TypeError: as `MAML`.
        ValueError: as `MAML`; in every method, if a map has the name of no parameter.
    """

    has_inner_steps = True

    def __init__(
        self,
        model: Model,
        loss: Loss,
        *,
        task_map: TaskMap = "auto",
        randomness: Randomness = "error",
        **options: Any,
    ) -> None:
        super().__init__(model, task_map, randomness)
        self.loss_function = loss
        self.maml = MAML(self.outputs, loss, names="context", **options)

    @classmethod
    def from_config(
        cls,
        config: CAVIAConfig,
        modules: Mapping[str, Model],
        loss: Loss,
        ways: int | None,
        task_map: TaskMap = "auto",
    ) -> "CAVIA":
        """The algorithm of a record."""
        del ways
        adjoint = FirstOrder() if config.first_order else Unrolled()
        return cls(
            modules["network"],
            loss,
            optimiser=sgd(config.inner_lr),
            steps=config.inner_steps,
            adjoint=adjoint,
            task_map=task_map,
        )

    def outputs(self, params: Any, inputs: Tensor) -> Tensor:
        """Outputs `(n, …)` of the network under a context, for meta-parameters with a third entry, `"context"`."""
        maps = part_of(params, "maps")
        leaves = flatten(params["network"])
        check_unknown(maps, list(leaves), "the network", "params['maps']")
        shifted = {name: leaves[name] + maps[name] @ params["context"] for name in maps}
        return self.apply(unflatten(params["network"], leaves | shifted), inputs)

    def initial(self, params: Any) -> Any:
        """The meta-parameters and the context 0."""
        first = next(iter(part_of(params, "maps").values()))
        return {**params, "context": first.new_zeros(first.shape[-1])}

    def adapt(self, params: Any, inputs: Tensor, targets: Tensor, steps: int | None = None) -> Tensor:
        """The context `(C,)` after the inner loop on one support set.

        Args:
            params: the meta-parameters, `{"network": …, "maps": name → (shape of the parameter, C)}`.
            inputs: of the support set.
            targets: of the support set.
            steps: how many; `None` for the algorithm's own number.
        """
        context: Tensor = self.maml.adapt(self.initial(params), inputs, targets, steps)["context"]
        return context

    def predict_task(self, params: Any, task: Batch, steps: int | None = None) -> Tensor:
        """Outputs `(n, …)` on one task's query set under the context of its support set."""
        context = self.adapt(params, *task["train"], steps)
        return self.outputs({**params, "context": context}, task["test"][0])

    def task_loss(self, params: Any, task: Batch) -> Tensor:
        """The loss on one task's query set under the context of its support set."""
        return self.loss_function(self.predict_task(params, task), task["test"][1])
