"""`Algorithm`: what every meta-learning algorithm does with a meta-batch, from what it does with one task."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metabridge.adaptation.steps import check_scalar
from metabridge.adaptation.task_maps import ResolvedTaskMap, TaskMap, check_batch, check_task_map, resolve_task_map
from metabridge.adaptation.trees import check_leaves, flatten
from metabridge.checks import require
from torch_backend.apply import Model, as_model, has_convolutions, run_model
from torch_backend.tasks import Batch, Randomness, map_tasks, mean_gradient

__all__ = ["Algorithm", "Loss"]

Loss = Callable[[Any, Any], Tensor]
"""A function `(outputs, targets)` → scalar, the mean over examples."""


class Algorithm:
    """A meta-learning algorithm as pure functions of its meta-parameters.

    A subclass says what happens to one task: `task_loss` and `predict_task`. This class maps them over the tasks of a
    meta-batch. A task is `{"train": (inputs, targets), "test": (inputs, targets)}`, its support and its query set; a
    meta-batch has one more axis in front, of B tasks.

    Args:
        model: a MetaModule, an ordinary module, or a pure function `(params, inputs)` → outputs.
        task_map: how the tasks of a meta-batch are computed: `"auto"`, the faster way on the device at hand,
            `"vectorised"`, `"sequential"` or `Chunked(size)`, see `metabridge.adaptation.task_maps`.
        randomness: random operations such as dropout in tasks, as in `torch.func.vmap`, but in every task map:
            `"error"` refuses them, `"different"` draws for every task, `"same"` once for all.

    Raises:
        TypeError: if `model` is neither a module nor a function.
        ValueError: for an unknown `task_map`.
    """

    has_inner_steps = False
    """Whether it adapts by steps, so that `predict` takes their number."""

    def __init__(self, model: Model, task_map: TaskMap = "auto", randomness: Randomness = "error") -> None:
        check_task_map(task_map)
        self.model = as_model(model)
        self.task_map = task_map
        self.randomness = randomness

    def task_loss(self, params: Any, task: Batch) -> Tensor:
        """The meta-loss of one task, a scalar."""
        raise NotImplementedError(f"{type(self).__name__} must define task_loss(params, task).")

    def predict_task(self, params: Any, task: Batch, steps: int | None = None) -> Tensor:
        """Outputs `(n, …)` on the query set of one task, learned from its support set."""
        raise NotImplementedError(f"{type(self).__name__} must define predict_task(params, task, steps).")

    def apply(self, params: Any, inputs: Tensor) -> Tensor:
        """Outputs of the model."""
        return run_model(self.model, params, inputs)[0]

    def loss(self, params: Any, batch: Batch) -> Tensor:
        """The meta-loss of a meta-batch, a scalar: the mean over its tasks. Gradients flow to `params`.

        Args:
            params: the meta-parameters, for a module name → tensor.
            batch: B tasks.
        """
        self._check(params, batch)
        task_map = self.resolved_task_map(params)
        return map_tasks(lambda task: self._scalar_loss(params, task), batch, task_map, self.randomness).mean()

    def meta_gradient(self, params: Any, batch: Batch) -> tuple[Tensor, Any]:
        """The meta-loss of a meta-batch and its gradient, a tree like `params`; neither has a graph.

        With sequential or chunked tasks it needs the memory of one task or chunk, where `loss(…).backward()` needs
        that of all.
        """
        self._check(params, batch)
        return mean_gradient(self._scalar_loss, params, batch, self.resolved_task_map(params), self.randomness)

    def _check(self, params: Any, batch: Batch) -> None:
        check_leaves(flatten(params), Tensor)
        check_batch(batch, (Tensor,), "torch_backend")

    def _scalar_loss(self, params: Any, task: Batch) -> Tensor:
        loss = self.task_loss(params, task)
        check_scalar(loss, "task_loss")
        return loss

    def predict(self, params: Any, batch: Batch, steps: int | None = None) -> Tensor:
        """Query outputs `(B, n, …)` of every task of a meta-batch, without a graph.

        Args:
            params: the meta-parameters.
            batch: B tasks.
            steps: inner steps; `None` for the algorithm's own number.

        Raises:
            ValueError: if `steps` is given to an algorithm without inner steps, or `batch` holds no tasks.
        """
        require(
            steps is None or self.has_inner_steps, "steps", f"None: {type(self).__name__} has no inner steps", steps
        )
        self._check(params, batch)
        with torch.no_grad():
            task_map = self.resolved_task_map(params)
            return map_tasks(lambda task: self.predict_task(params, task, steps), batch, task_map, self.randomness)

    def resolved_task_map(self, params: Any) -> ResolvedTaskMap:
        """The task map for these parameters on their device."""
        leaves = flatten(params)
        device = next((value.device.type for value in leaves.values()), "cpu")
        shapes = [tuple(value.shape) for value in leaves.values()]
        return resolve_task_map(self.task_map, device, shapes, has_convolutions(self.model))
