"""`Algorithm`: what every meta-learning algorithm does with a meta-batch, from what it does with one task."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_backend.apply import Model, as_model, has_convolutions, run_model
from jax_backend.programs import Programs, platform_of
from jax_backend.tasks import Batch, map_tasks, mean_gradient
from jax_backend.trees import is_array
from metabridge.adaptation.steps import check_scalar
from metabridge.adaptation.task_maps import ResolvedTaskMap, TaskMap, check_batch, check_task_map, resolve_task_map
from metabridge.checks import require

__all__ = ["Algorithm", "Loss"]

Loss = Callable[[Any, Any], jax.Array]
"""A function `(outputs, targets)` → scalar, the mean over examples."""


class Algorithm:
    """A meta-learning algorithm as pure functions of its meta-parameters.

    A subclass says what happens to one task: `task_loss` and `predict_task`. This class maps them over the tasks of a
    meta-batch, and compiles `loss`, `meta_gradient` and `predict`: they need no `jax.jit` around them, and may have
    one. A task is `{"train": (inputs, targets), "test": (inputs, targets)}`, its support and its query set; a
    meta-batch has one more axis in front, of B tasks. Random operations of an NNX module, such as dropout, draw the
    same numbers for all tasks, whatever the task map.

    Args:
        model: a MetaModule, an ordinary NNX module, or a pure function `(params, inputs)` → outputs.
        task_map: how the tasks of a meta-batch are computed: `"auto"`, the faster way on the device at hand,
            `"vectorised"`, `"sequential"` or `Chunked(size)`, see `metabridge.adaptation.task_maps`.

    Raises:
        TypeError: if `model` is neither a module nor a function.
        ValueError: for an unknown `task_map`.
    """

    has_inner_steps = False
    """Whether it adapts by steps, so that `predict` takes their number."""

    def __init__(self, model: Model, task_map: TaskMap = "auto") -> None:
        check_task_map(task_map)
        self.model = as_model(model)
        self.task_map = task_map
        self._programs = Programs(self)

    def task_loss(self, params: Any, task: Batch) -> jax.Array:
        """The meta-loss of one task, a scalar."""
        raise NotImplementedError(f"{type(self).__name__} must define task_loss(params, task).")

    def predict_task(self, params: Any, task: Batch, steps: int | None = None) -> jax.Array:
        """Outputs `(n, …)` on the query set of one task, learned from its support set."""
        raise NotImplementedError(f"{type(self).__name__} must define predict_task(params, task, steps).")

    def apply(self, params: Any, inputs: jax.Array) -> jax.Array:
        """Outputs of the model."""
        return run_model(self.model, params, inputs)[0]

    def loss(self, params: Any, batch: Batch) -> jax.Array:
        """The meta-loss of a meta-batch, a scalar: the mean over its tasks; differentiate it with `jax.grad`.

        Args:
            params: the meta-parameters, any pytree; for an NNX module name → array.
            batch: B tasks.
        """
        _check(batch)
        task_map = self.resolved_task_map(params)

        def loss(params: Any, batch: Batch) -> jax.Array:
            return map_tasks(lambda task: self._scalar_loss(params, task), batch, task_map).mean()

        return self._programs.run(loss, params, batch, ("loss", task_map))

    def meta_gradient(self, params: Any, batch: Batch) -> tuple[jax.Array, Any]:
        """The meta-loss of a meta-batch and its gradient, a pytree like `params`.

        Leaves of `params` that are no real or complex numbers have `None` in the gradient. With sequential or chunked
        tasks it needs the memory of one task or chunk, where `jax.grad(loss)` needs that of all.
        """
        _check(batch)
        task_map = self.resolved_task_map(params)

        def meta_gradient(params: Any, batch: Batch) -> tuple[jax.Array, Any]:
            return mean_gradient(self._scalar_loss, params, batch, task_map)

        if self.task_map == "auto" and task_map == "sequential":
            self._programs.warn_of_slow_convolutions(self.apply, params, batch["train"][0][0])
        return self._programs.run(meta_gradient, params, batch, ("meta_gradient", task_map))

    def _scalar_loss(self, params: Any, task: Batch) -> jax.Array:
        loss = self.task_loss(params, task)
        check_scalar(loss, "task_loss")
        return loss

    def predict(self, params: Any, batch: Batch, steps: int | None = None) -> jax.Array:
        """Query outputs `(B, n, …)` of every task of a meta-batch.

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
        _check(batch)
        task_map = self.resolved_task_map(params)

        def predict(params: Any, batch: Batch) -> jax.Array:
            return map_tasks(lambda task: self.predict_task(params, task, steps), batch, task_map)

        return self._programs.run(predict, params, batch, ("predict", task_map, steps))

    def resolved_task_map(self, params: Any) -> ResolvedTaskMap:
        """The task map for these parameters on their device."""
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(params) if is_array(leaf)]
        return resolve_task_map(self.task_map, platform_of(params), shapes, has_convolutions(self.model))


def _check(batch: Batch) -> None:
    # JAX takes NumPy's arrays in a dictionary, but no EpisodeBatch.
    check_batch(batch, (jax.Array, np.ndarray) if isinstance(batch, dict) else (jax.Array,), "jax_backend")
