"""MAML (Finn, Abbeel, Levine 2017, arXiv 1703.03400): learn parameters from which a few gradient steps suffice."""

from collections.abc import Callable

import torch
from torch import Tensor

from metabridge.adaptation.task_maps import TaskMap
from metabridge.configs import AlgorithmConfig
from torch_backend.adaptation import gradient_of, sgd_update
from torch_backend.modules.exact import active_transforms

__all__ = ["MAML", "Apply", "Batch", "Loss", "Params"]

Params = dict[str, Tensor]
Apply = Callable[[Params, Tensor], Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]
Batch = dict[str, tuple[Tensor, Tensor]]


class MAML:
    """The meta-objective of MAML and its exact gradient, as pure functions of the parameters.

    The meta-objective of a task is the loss on its query set after `inner_steps` steps of gradient descent on its
    support set (the paper's theta' and equation 1); that of a meta-batch is the mean over its tasks, where the paper
    sums them. `first_order` leaves the second derivatives out.

    Args:
        apply: a pure function `(params, inputs)` → outputs, for example `lambda p, x: model(x, params=p)`.
        loss: a function `(outputs, targets)` → scalar.
        config: inner steps, inner step size, first order or not.
        task_map: `"vectorised"`: all tasks at once (`torch.func.vmap`); `"sequential"`: one after another.
    """

    def __init__(self, apply: Apply, loss: Loss, config: AlgorithmConfig, task_map: TaskMap = "vectorised") -> None:
        self.apply = apply
        self.loss = loss
        self.config = config
        self.task_map = task_map

    def adapt(self, params: Params, inputs: Tensor, targets: Tensor, steps: int | None = None) -> Params:
        """The parameters after `steps` (default: the config's) of gradient descent on one support set."""

        def support_loss(current: Params) -> Tensor:
            return self.loss(self.apply(current, inputs), targets)

        for _ in range(self.config.inner_steps if steps is None else steps):
            gradients = gradient_of(support_loss, params, create_graph=not self.config.first_order)
            params = sgd_update(params, gradients, self.config.inner_lr, self.config.first_order)
        return params

    def predict(self, params: Params, task: Batch, steps: int | None = None) -> Tensor:
        """Outputs on one task's query set after `steps` of adapting to its support set (default: the config's)."""
        return self.apply(self.adapt(params, *task["train"], steps), task["test"][0])

    def task_objective(self, params: Params, task: Batch) -> Tensor:
        """The meta-objective of one task."""
        return self.loss(self.predict(params, task), task["test"][1])

    def objective(self, params: Params, batch: Batch) -> Tensor:
        """The meta-objective of a meta-batch, a scalar."""
        if self.task_map == "vectorised":
            return torch.func.vmap(self.task_objective, in_dims=(None, 0))(params, batch).mean()
        return torch.stack([self.task_objective(params, task) for task in _tasks(batch)]).mean()

    def meta_gradient(self, params: Params, batch: Batch) -> tuple[Tensor, Params]:
        """The meta-objective of a meta-batch and its gradient with respect to `params`."""
        if self.task_map == "vectorised":
            gradients, objective = torch.func.grad_and_value(self.objective)(params, batch)
            return objective, gradients
        # Task by task, so that the graph of one task is all that memory must hold.
        totals = {name: torch.zeros_like(value) for name, value in params.items()}
        objectives = []
        for task in _tasks(batch):
            gradients, objective = self._task_gradient(params, task)
            objectives.append(objective)
            for name, gradient in gradients.items():
                totals[name] += gradient
        return torch.stack(objectives).mean(), {name: total / len(objectives) for name, total in totals.items()}

    def _task_gradient(self, params: Params, task: Batch) -> tuple[Params, Tensor]:
        if active_transforms():
            return torch.func.grad_and_value(self.task_objective)(params, task)
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        objective = self.task_objective(leaves, task)
        found = torch.autograd.grad(objective, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, found, strict=True)), objective.detach()

    def predict_batch(self, params: Params, batch: Batch, steps: int | None = None) -> Tensor:
        """Query outputs `(B, n, …)` of every task of a meta-batch, without a graph."""
        with torch.no_grad():
            if self.task_map == "vectorised":
                return torch.func.vmap(self.predict, in_dims=(None, 0, None))(params, batch, steps)
            return torch.stack([self.predict(params, task, steps) for task in _tasks(batch)])


def _tasks(batch: Batch) -> list[Batch]:
    """The meta-batch as a list of single tasks."""
    count = len(next(iter(batch.values()))[0])
    return [{name: (inputs[i], targets[i]) for name, (inputs, targets) in batch.items()} for i in range(count)]
