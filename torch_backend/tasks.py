"""The tasks of a meta-batch: a function of one task mapped over all, and the mean gradient of a loss of one task.

Every algorithm goes through these two functions, and none maps tasks itself.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from metabridge.adaptation.task_maps import Chunked, ResolvedTaskMap
from metabridge.adaptation.trees import flatten, unflatten
from metabridge.checks import check_callable, check_mapping, require
from torch_backend.modules.exact import active_transforms
from torch_backend.trees import is_differentiable

__all__ = ["Batch", "Randomness", "map_tasks", "mean_gradient"]

Batch = Mapping[str, tuple[Tensor, Tensor]]
"""Split → (inputs, targets), of one task, or of B tasks with a leading axis B."""

Randomness = Literal["error", "different", "same"]
"""Random operations such as dropout in tasks: refused, drawn for every task, or drawn once for all."""


def map_tasks(
    function: Callable[[Batch], Tensor],
    batch: Batch,
    task_map: ResolvedTaskMap = "vectorised",
    randomness: Randomness = "error",
) -> Tensor:
    """`function(task)` of every task of a meta-batch, stacked: `(B, …)`.

    Args:
        function: of one task, whose tensors have no task axis.
        batch: B tasks.
        task_map: all tasks at once (`torch.func.vmap`), one after another, or some at a time. The result is the same
            up to rounding.
        randomness: as in `torch.func.vmap`, in every task map: `"error"` refuses random operations, `"different"` lets
            every task draw its own numbers, and with `"same"` all tasks draw the same ones, whatever the task map.

    Raises:
        RuntimeError: for a random operation with `"error"`.
        ValueError: for tasks one after another with `"same"`, if they are neither on a CPU nor on a CUDA device.
    """
    check_callable(function, "function")
    check_mapping(batch, "batch")
    if task_map == "sequential":
        return torch.stack([function(task) for task in _pieces(batch, None, randomness)])
    size = task_map.size if isinstance(task_map, Chunked) else _count(batch)
    vectorised = torch.func.vmap(function, randomness=randomness)
    chunks = [vectorised(chunk) for chunk in _pieces(batch, size, randomness)]
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks)


def mean_gradient(
    loss: Callable[[Any, Batch], Tensor],
    params: Any,
    batch: Batch,
    task_map: ResolvedTaskMap = "vectorised",
    randomness: Randomness = "error",
) -> tuple[Tensor, Any]:
    """The mean of a loss over the tasks of a meta-batch, and its gradient with respect to `params`.

    One task, or one chunk, is differentiated at a time, and its gradient added: the graph of one is all that memory
    holds.

    Args:
        loss: `(params, task)` → scalar.
        params: any tree of tensors. Leaves that are no real or complex tensors go along.
        batch: B tasks.
        task_map: as in `map_tasks`.
        randomness: as in `map_tasks`.

    Returns:
        The mean, a scalar without a graph, and a tree like `params`, with `None` in the place of leaves that go along.
        Inside of a `torch.func` transform both can be differentiated.
    """
    check_callable(loss, "loss")
    check_mapping(batch, "batch")
    leaves = flatten(params)
    chosen = {name: value for name, value in leaves.items() if is_differentiable(value)}

    def chosen_loss(chosen: Mapping[str, Tensor], task: Batch) -> Tensor:
        return loss(unflatten(params, {**leaves, **chosen}), task)

    value, gradients = _mean_gradient(chosen_loss, chosen, batch, task_map, randomness)
    return value, unflatten(params, {name: gradients.get(name) for name in leaves})


NamedLoss = Callable[[Mapping[str, Tensor], Batch], Tensor]


def _mean_gradient(
    loss: NamedLoss, params: dict[str, Tensor], batch: Batch, task_map: ResolvedTaskMap, randomness: Randomness
) -> tuple[Tensor, dict[str, Tensor]]:
    if task_map == "vectorised":

        def mean(params: Mapping[str, Tensor]) -> Tensor:
            return map_tasks(lambda task: loss(params, task), batch, task_map, randomness).mean()

        gradients, value = torch.func.grad_and_value(mean)(params if active_transforms() else _detached(params))
        return value, gradients

    def piece_loss(params: Mapping[str, Tensor], piece: Batch) -> Tensor:
        if not isinstance(task_map, Chunked):
            return loss(params, piece)
        return map_tasks(lambda task: loss(params, task), piece, "vectorised", randomness).sum()

    totals = {name: torch.zeros_like(value) for name, value in params.items()}
    values = []
    for piece in _pieces(batch, task_map.size if isinstance(task_map, Chunked) else None, randomness):
        value, gradients = _value_and_gradient(piece_loss, params, piece)
        values.append(value)
        totals = {name: total + gradients[name] for name, total in totals.items()}
    count = _count(batch)
    return torch.stack(values).sum() / count, {name: total / count for name, total in totals.items()}


def _detached(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers without a graph: no outer graph is recorded."""
    return {name: value.detach() for name, value in params.items()}


def _value_and_gradient(
    loss: NamedLoss, params: Mapping[str, Tensor], piece: Batch
) -> tuple[Tensor, dict[str, Tensor]]:
    """By `torch.autograd` outside of `torch.func`, under which layers are faster; inside by `torch.func`."""
    if active_transforms():
        gradients, value = torch.func.grad_and_value(loss)(params, piece)
        return value, gradients
    with torch.enable_grad():
        leaves = {name: value.requires_grad_() for name, value in _detached(params).items()}
        value = loss(leaves, piece)
        if not leaves or not value.requires_grad:
            return value.detach(), {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        gradients = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
    return value.detach(), dict(zip(leaves, gradients, strict=True))


def _count(batch: Batch) -> int:
    return len(next(iter(batch.values()))[0])


def _pieces(batch: Batch, size: int | None, randomness: Randomness) -> Iterator[Batch]:
    """The meta-batch in pieces of `size` tasks, with `None` as single tasks without a task axis, one after another.

    `torch.func.vmap` sees to random operations inside of a piece, this to those in different pieces, and to all of
    single tasks.
    """
    step = 1 if size is None else size
    rows = [first if size is None else slice(first, first + step) for first in range(0, _count(batch), step)]
    matters = (randomness == "same" and len(rows) > 1) or (randomness == "error" and size is None)
    generators = _generators(batch, randomness) if matters else []
    states = [generator.get_state() for generator in generators]
    for row in rows:
        if randomness == "same":
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
        yield {name: (inputs[row], targets[row]) for name, (inputs, targets) in batch.items()}
    moved = any(not torch.equal(each.get_state(), state) for each, state in zip(generators, states, strict=True))
    if randomness == "error" and moved:
        raise RuntimeError(
            "a task draws random numbers, as dropout does, which randomness='error' refuses; pass "
            "randomness='different' to draw for every task, 'same' to draw once for all, or call eval() of the model."
        )


def _generators(batch: Batch, randomness: Randomness) -> list[torch.Generator]:
    """The generators from which random operations of a task draw."""
    device = next(iter(batch.values()))[0].device
    if device.type == "cuda":
        return [torch.default_generator, torch.cuda.default_generators[device.index]]
    known = device.type == "cpu" or randomness == "error"
    require(known, "randomness", f"'different' on {device.type}, whose random state is unknown", randomness)
    return [torch.default_generator]
