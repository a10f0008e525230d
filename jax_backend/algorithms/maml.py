"""MAML (Finn, Abbeel, Levine 2017, arXiv 1703.03400): learn parameters from which a few gradient steps suffice."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jax_backend.adaptation import sgd_update
from metabridge.adaptation.task_maps import TaskMap
from metabridge.configs import AlgorithmConfig

__all__ = ["MAML", "Apply", "Batch", "Loss", "Params"]

Params = Any
Apply = Callable[[Params, jax.Array], jax.Array]
Loss = Callable[[jax.Array, jax.Array], jax.Array]
Batch = dict[str, tuple[jax.Array, jax.Array]]


class MAML:
    """The meta-objective of MAML and its exact gradient, as pure functions of the parameters.

    The meta-objective of a task is the loss on its query set after `inner_steps` steps of gradient descent on its
    support set (the paper's theta' and equation 1); that of a meta-batch is the mean over its tasks, where the paper
    sums them. `first_order` leaves the second derivatives out.

    Args:
        apply: a pure function `(params, inputs)` → outputs; `params` may be any pytree, so models of Flax Linen,
            Equinox or plain functions work as well as `lambda p, x: model(x, params=p)`.
        loss: a function `(outputs, targets)` → scalar.
        config: inner steps, inner step size, first order or not.
        task_map: `"vectorised"`: all tasks at once (`jax.vmap`); `"sequential"`: one after another (`jax.lax.scan`).
    """

    def __init__(self, apply: Apply, loss: Loss, config: AlgorithmConfig, task_map: TaskMap = "vectorised") -> None:
        self.apply = apply
        self.loss = loss
        self.config = config
        self.task_map = task_map

    def adapt(self, params: Params, inputs: jax.Array, targets: jax.Array, steps: int | None = None) -> Params:
        """The parameters after `steps` (default: the config's) of gradient descent on one support set."""

        def support_loss(current: Params) -> jax.Array:
            return self.loss(self.apply(current, inputs), targets)

        for _ in range(self.config.inner_steps if steps is None else steps):
            gradients = jax.grad(support_loss)(params)
            params = sgd_update(params, gradients, self.config.inner_lr, self.config.first_order)
        return params

    def predict(self, params: Params, task: Batch, steps: int | None = None) -> jax.Array:
        """Outputs on one task's query set after `steps` of adapting to its support set (default: the config's)."""
        return self.apply(self.adapt(params, *task["train"], steps), task["test"][0])

    def task_objective(self, params: Params, task: Batch) -> jax.Array:
        """The meta-objective of one task."""
        return self.loss(self.predict(params, task), task["test"][1])

    def objective(self, params: Params, batch: Batch) -> jax.Array:
        """The meta-objective of a meta-batch, a scalar."""
        if self.task_map == "vectorised":
            return jax.vmap(self.task_objective, in_axes=(None, 0))(params, batch).mean()
        return jax.lax.map(lambda task: self.task_objective(params, task), batch).mean()

    def meta_gradient(self, params: Params, batch: Batch) -> tuple[jax.Array, Params]:
        """The meta-objective of a meta-batch and its gradient with respect to `params`."""
        if self.task_map == "vectorised":
            return jax.value_and_grad(self.objective)(params, batch)

        # Task by task, so that the residuals of one task are all that memory must hold.
        def add_task(total: Params, task: Batch) -> tuple[Params, jax.Array]:
            objective, gradient = jax.value_and_grad(self.task_objective)(params, task)
            return jax.tree.map(jnp.add, total, gradient), objective

        total, objectives = jax.lax.scan(add_task, jax.tree.map(jnp.zeros_like, params), batch)
        return objectives.mean(), jax.tree.map(lambda value: value / len(objectives), total)

    def predict_batch(self, params: Params, batch: Batch, steps: int | None = None) -> jax.Array:
        """Query outputs `(B, n, …)` of every task of a meta-batch."""

        def predict(task: Batch) -> jax.Array:
            return self.predict(params, task, steps)

        return jax.vmap(predict)(batch) if self.task_map == "vectorised" else jax.lax.map(predict, batch)
