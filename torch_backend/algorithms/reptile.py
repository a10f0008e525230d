"""Reptile (Nichol, Achiam, Schulman 2018, arXiv 1803.02999): go towards the parameters that the inner loop finds."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metabridge.adaptation.task_maps import TaskMap
from metabridge.adaptation.trees import flatten
from torch_backend.adjoints import FirstOrder
from torch_backend.algorithms.algorithm import Loss
from torch_backend.algorithms.maml import MAML
from torch_backend.apply import Model
from torch_backend.optimisers import sgd
from torch_backend.tasks import Batch

__all__ = ["Reptile"]


class Reptile(MAML):
    """Go from the parameters towards those after the inner loop, without a gradient through it.

    For a task with support loss `L_s`:

        φ_0 = θ,  φ_{k+1} = φ_k − α ∇ L_s(φ_k)  for k < steps,  meta-gradient = θ − φ_steps

    Nichol, Achiam, Schulman 2018 (arXiv 1803.02999), algorithm 2 with θ = `params`. An outer step of gradient descent
    of size ε is the paper's `θ ← θ + ε · mean(φ − θ)`. Their other form, (θ − φ) / α, has the outer step size ε / α.
    Each inner step of the paper has a mini-batch of its own; here every one has the whole support set. With one step
    it is gradient descent on the mean support loss: learning to adapt begins at two.

    The meta-loss, `L_q(φ_steps)`, is reported and has no part in the meta-gradient: the query set is never learned
    from. `loss(…)` has the same gradient as `meta_gradient`.

    Args:
        model: see `MAML`.
        loss: see `MAML`.
        options: the other arguments of `MAML` but `adjoint`.
    """

    def __init__(self, model: Model, loss: Loss, **options: Any) -> None:
        super().__init__(model, loss, adjoint=FirstOrder(), **options)

    @classmethod
    def from_config(
        cls,
        config: Any,
        modules: Mapping[str, Model],
        loss: Loss,
        ways: int | None,
        task_map: TaskMap = "auto",
    ) -> "Reptile":
        """The algorithm of a `ReptileConfig`."""
        del ways
        return cls(
            modules["network"], loss, optimiser=sgd(config.inner_lr), steps=config.inner_steps, task_map=task_map
        )

    def task_loss(self, params: Any, task: Batch) -> Tensor:
        """The loss on one task's query set after the inner loop; its gradient is `params − φ`."""
        with torch.no_grad():
            adapted = self.adapt(params, *task["train"])
            value = self.loss_function(self.apply(adapted, task["test"][0]), task["test"][1])
        before, after = flatten(params), flatten(adapted)
        towards = [(before[name] * (before[name] - after[name]).detach()).sum() for name in before]
        direction = torch.stack(towards).sum()
        return value + (direction - direction.detach())
