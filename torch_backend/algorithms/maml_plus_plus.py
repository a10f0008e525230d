"""MAML++ (Antoniou, Edwards, Storkey 2019, arXiv 1810.09502): MAML with learned rates and a loss after every step."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metabridge.adaptation.multi_step import check_weights, multi_step_weights
from metabridge.adaptation.task_maps import TaskMap
from metabridge.adaptation.trees import flatten, map_leaves
from metabridge.networks.parts import NETWORK, part_of
from torch_backend.adjoints import FirstOrder, Unrolled
from torch_backend.algorithms.algorithm import Loss
from torch_backend.algorithms.maml import MAML
from torch_backend.apply import Model
from torch_backend.optimisers import Optimiser, sgd
from torch_backend.tasks import Batch

__all__ = ["MAMLPlusPlus"]


class MAMLPlusPlus(MAML):
    """MAML with a learned rate for every parameter and step, and a meta-loss that counts every step.

    With θ = `params["network"]`, rates α = `params["rates"]`, a tree like θ of arrays `(steps,)`, and weights w:

        φ_0 = θ,  φ_{k+1} = φ_k − α[k] ∇ L_s(φ_k)  for k < steps,  meta-loss = Σ_k w_k L_q(φ_{k+1})

    Antoniou, Edwards, Storkey 2019 (arXiv 1810.09502), section 4: multi-step loss (equation 4), and learned rates per
    layer and step, here per parameter array. An object has fixed weights and one adjoint. To anneal the weights or the
    order of derivatives, make another object for each stage, as a learner does with `MAMLPlusPlusConfig.at_step`:

        weights = multi_step_weights(steps=5, progress=0.3)         # of metabridge.adaptation.multi_step
        stage = MAMLPlusPlus(network, loss, steps=5, weights=weights, adjoint=FirstOrder())

    Batch normalisation by the statistics of the batch at hand needs no statistics per step; `adapt` has them as
    `batch_norm="per-step"`. Its weights and biases are one set for all steps, where the paper has one for each. The
    paper's cosine schedule of the outer rate is the outer optimiser's.

    Args:
        model: see `MAML`.
        loss: see `MAML`.
        steps: inner steps, at least 1. `predict` with more of them takes the last rates on.
        weights: how much the query loss counts after each step; `None` for the last step alone.
        options: the other arguments of `MAML` but `optimiser`.

    Raises:
        TypeError: as `MAML`.
        ValueError: if `weights` are not one finite number of at least 0 for every step, or as `MAML`.
    """

    def __init__(
        self, model: Model, loss: Loss, *, steps: int, weights: Sequence[float] | None = None, **options: Any
    ) -> None:
        super().__init__(model, loss, optimiser=sgd(1.0), steps=steps, **options)
        last_alone = (0.0,) * (steps - 1) + (1.0,)
        self.weights = check_weights(last_alone if weights is None else weights, steps)

    @classmethod
    def from_config(
        cls, config: Any, modules: Mapping[str, Model], loss: Loss, ways: int | None, task_map: TaskMap = "auto"
    ) -> "MAMLPlusPlus":
        """The algorithm of a `MAMLPlusPlusConfig`, with the choices of its first meta-step."""
        del ways
        first = config.at_step(0)
        return cls(
            modules["network"],
            loss,
            steps=first.inner_steps,
            weights=multi_step_weights(first.inner_steps, first.progress),
            adjoint=FirstOrder() if first.first_order else Unrolled(),
            task_map=task_map,
        )

    def initial(self, params: Any) -> Any:
        """θ."""
        return part_of(params, NETWORK)

    def inner_optimiser(self, params: Any) -> Optimiser:
        """Gradient descent with the rates α of each step."""
        rates = flatten(part_of(params, "rates"))
        return sgd(lambda step: {name: rate[min(step, len(rate) - 1)] for name, rate in rates.items()})

    def task_loss(self, params: Any, task: Batch) -> Tensor:
        """The weighted losses on one task's query set after each inner step on its support set."""
        queries, targets = task["test"]
        adapted, losses = part_of(params, NETWORK), []
        for step, weight in enumerate(self.weights):
            rates = map_leaves(lambda rate, step=step: rate[step:], params["rates"])
            adapted = self.adapt({"network": adapted, "rates": rates}, *task["train"], steps=1)
            if weight:
                losses.append(weight * self.loss_function(self.apply(adapted, queries), targets))
        return torch.stack(losses).sum()
