"""The tasks of a meta-batch: a function of one task mapped over all, and the mean gradient of a loss of one task.

Every algorithm goes through these two functions, and none maps tasks itself.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jax_backend.trees import is_differentiable, split, uphill
from metabridge.adaptation.task_maps import Chunked, ResolvedTaskMap
from metabridge.checks import check_callable, check_mapping

__all__ = ["Batch", "map_tasks", "mean_gradient"]

Batch = Mapping[str, tuple[jax.Array, jax.Array]]
"""Split → (inputs, targets), of one task, or of B tasks with a leading axis B."""


def map_tasks(
    function: Callable[[Batch], jax.Array], batch: Batch, task_map: ResolvedTaskMap = "vectorised"
) -> jax.Array:
    """`function(task)` of every task of a meta-batch, stacked: `(B, …)`.

    Args:
        function: of one task, whose arrays have no task axis.
        batch: B tasks.
        task_map: all tasks at once (`jax.vmap`), one after another (`jax.lax.map`), or some at a time. The result is
            the same up to rounding.
    """
    check_callable(function, "function")
    check_mapping(batch, "batch")
    if task_map == "vectorised":
        return jax.vmap(function)(batch)
    return jax.lax.map(function, batch, batch_size=task_map.size if isinstance(task_map, Chunked) else None)


def mean_gradient(
    loss: Callable[[Any, Batch], jax.Array], params: Any, batch: Batch, task_map: ResolvedTaskMap = "vectorised"
) -> tuple[jax.Array, Any]:
    """The mean of a loss over the tasks of a meta-batch, and its gradient with respect to `params`.

    One task, or one chunk, is differentiated at a time, and its gradient added: the residuals of one are all that
    memory holds.

    Args:
        loss: `(params, task)` → scalar.
        params: any pytree. Leaves that are no real or complex numbers go along.
        batch: B tasks.
        task_map: as in `map_tasks`.

    Returns:
        The mean, a scalar, and a pytree like `params`, with `None` in the place of leaves that go along. It points
        uphill: the gradient of a complex leaf is PyTorch's, the conjugate of that of `jax.grad`.
    """
    check_callable(loss, "loss")
    check_mapping(batch, "batch")
    parts = split(params, is_differentiable)

    def chosen_loss(chosen: list[Any], task: Batch) -> jax.Array:
        return loss(parts.merge(chosen), task)

    value, gradients = _mean_gradient(chosen_loss, parts.chosen, batch, task_map)
    return value, parts.alone(uphill(gradients))


def _mean_gradient(
    loss: Callable[[list[Any], Batch], jax.Array], params: list[Any], batch: Batch, task_map: ResolvedTaskMap
) -> tuple[jax.Array, list[Any]]:
    if task_map == "vectorised":
        return jax.value_and_grad(lambda params: jax.vmap(lambda task: loss(params, task))(batch).mean())(params)

    def chunk_loss(params: Any, chunk: Batch) -> jax.Array:
        return jax.vmap(lambda task: loss(params, task))(chunk).sum()

    def add(totals: tuple[jax.Array, Any], piece: Batch) -> tuple[tuple[jax.Array, Any], None]:
        piece_loss = chunk_loss if isinstance(task_map, Chunked) else loss
        return jax.tree.map(jnp.add, totals, jax.value_and_grad(piece_loss)(params, piece)), None

    count = len(jax.tree.leaves(batch)[0])
    size = task_map.size if isinstance(task_map, Chunked) else 1
    whole = count // size * size
    leading, rest = (_take(batch, part) for part in (slice(whole), slice(whole, None)))
    value = jax.eval_shape(loss, params, _take(batch, 0))
    totals = jnp.zeros((), value.dtype), jax.tree.map(jnp.zeros_like, params)
    if whole:
        chunks = jax.tree.map(lambda array: array.reshape(-1, size, *array.shape[1:]), leading)
        totals, _ = jax.lax.scan(add, totals, chunks if isinstance(task_map, Chunked) else leading)
    if whole < count:
        totals, _ = add(totals, rest)
    return jax.tree.map(lambda total: total / count, totals)


def _take(batch: Batch, rows: Any) -> Batch:
    return jax.tree.map(lambda array: array[rows], batch)
