"""Adjoints: how an inner loop is differentiated, as a value for `adjoint=`.

An adjoint decides two things about a loop: the gradient that a step uses (`gradient`) and how the steps follow each
other (`loop`). `torch_backend.descent.descend` supplies the step.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from metabridge.adaptation.trees import flatten, map_leaves, unflatten
from torch_backend.modules.exact import active_transforms

__all__ = ["Adjoint", "FirstOrder", "Unrolled"]

Carry = TypeVar("Carry")

ScalarWithAux = Callable[[Any], tuple[Tensor, Any]]
"""A function of a tree of parameters that returns a scalar and a second value."""


class Adjoint(Protocol):
    """How an inner loop is differentiated. Equal adjoints are interchangeable."""

    def gradient(self, loss: ScalarWithAux, params: Any) -> tuple[Any, Any]:
        """The gradient of `loss` at `params` that a step uses, and the second value of `loss`."""

    def loop(
        self, step: Callable[[Carry, Any], tuple[Carry, Any]], carry: Carry, inputs: Sequence[Any]
    ) -> tuple[Carry, list[Any]]:
        """One step per input: the carry after the last one, and the second value of every step."""


@dataclass(frozen=True)
class Unrolled:
    """Differentiate through every step: exact, of second order, with the memory of all steps.

    Equation (1) of Finn, Abbeel, Levine 2017, arXiv 1703.03400.
    """

    def gradient(self, loss: ScalarWithAux, params: Any) -> tuple[Any, Any]:
        """The gradient, which can be differentiated again."""
        return _gradient(loss, params, create_graph=True)

    def loop(
        self, step: Callable[[Carry, Any], tuple[Carry, Any]], carry: Carry, inputs: Sequence[Any]
    ) -> tuple[Carry, list[Any]]:
        """One step after another."""
        return _in_order(step, carry, inputs)


@dataclass(frozen=True)
class FirstOrder:
    """Leave the second derivatives out: the gradient of every step counts as a constant.

    The first-order approximation of Finn, Abbeel, Levine 2017, arXiv 1703.03400, section 5.2. Gradients still flow to
    the parameters before the loop and to learned rates; the memory is that of one step.
    """

    def gradient(self, loss: ScalarWithAux, params: Any) -> tuple[Any, Any]:
        """The gradient, without a graph."""
        gradients, aux = _gradient(loss, params, create_graph=False)
        return map_leaves(torch.Tensor.detach, gradients), aux

    def loop(
        self, step: Callable[[Carry, Any], tuple[Carry, Any]], carry: Carry, inputs: Sequence[Any]
    ) -> tuple[Carry, list[Any]]:
        """One step after another."""
        return _in_order(step, carry, inputs)


def _in_order(
    step: Callable[[Carry, Any], tuple[Carry, Any]], carry: Carry, inputs: Sequence[Any]
) -> tuple[Carry, list[Any]]:
    outputs = []
    for values in inputs:
        carry, output = step(carry, values)
        outputs.append(output)
    return carry, outputs


def _gradient(loss: ScalarWithAux, params: Any, create_graph: bool) -> tuple[Any, Any]:
    """The gradient of a loss. A parameter that the loss does not use has the gradient 0.

    Outside of `torch.func` by `torch.autograd`, under which layers are faster and more of them work; inside by
    `torch.func`. It leaves no graph without gradients around it (`torch.no_grad()`), nor where neither the parameters
    nor any other tensor in the loss requires a gradient.

    Raises:
        RuntimeError: in `torch.inference_mode()`, where no gradient exists.
    """
    leaves = flatten(params)
    if active_transforms():
        # Constant gradients need no graph; without one they cost the memory of one step.
        with torch.set_grad_enabled(create_graph and torch.is_grad_enabled()):
            gradients, aux = torch.func.grad(lambda leaves: loss(unflatten(params, leaves)), has_aux=True)(leaves)
            return unflatten(params, gradients), aux
    if torch.is_inference_mode_enabled():
        raise RuntimeError("an inner loop needs gradients, which torch.inference_mode() forbids; use torch.no_grad().")
    create_graph = create_graph and torch.is_grad_enabled()
    with torch.enable_grad():
        # Views: the loss may use the same tensor elsewhere too, as an argument or under another name.
        inputs = {
            name: leaf.view_as(leaf) if create_graph and leaf.requires_grad else leaf.detach().requires_grad_()
            for name, leaf in leaves.items()
        }
        value, aux = loss(unflatten(params, inputs))
        if not inputs or not value.requires_grad:
            return unflatten(params, {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}), aux
        create_graph = create_graph and _requires_others(value, inputs.values())
        found = torch.autograd.grad(value, list(inputs.values()), create_graph=create_graph, materialize_grads=True)
    return unflatten(params, dict(zip(inputs, found, strict=True))), aux


def _requires_others(value: Tensor, inputs: Collection[Tensor]) -> bool:
    """Whether a value has a gradient with respect to any tensor but the leaves among `inputs`."""
    if not all(each.is_leaf for each in inputs):
        return True
    own = {id(each) for each in inputs}
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None) if node.name() == "torch::autograd::AccumulateGrad" else None
        if leaf is not None and id(leaf) not in own:
            return True
        waiting += [parent for parent, _ in node.next_functions]
    return False
