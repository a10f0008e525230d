"""Adjoints: how an inner loop is differentiated, as a value for `adjoint=`.

An adjoint decides two things about a loop: the gradient that a step uses (`gradient`) and how the steps follow each
other (`loop`). `torch_backend.descent.descend` supplies the step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from torch_backend.modules.exact import active_transforms

__all__ = ["Adjoint", "FirstOrder", "Unrolled"]

Carry = TypeVar("Carry")

ScalarWithAux = Callable[[dict[str, Tensor]], tuple[Tensor, Any]]
"""A function of parameters by name that returns a scalar and a second value."""


class Adjoint(Protocol):
    """How an inner loop is differentiated. Equal adjoints are interchangeable."""

    def gradient(self, loss: ScalarWithAux, params: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
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

    def gradient(self, loss: ScalarWithAux, params: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
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

    def gradient(self, loss: ScalarWithAux, params: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
        """The gradient, without a graph."""
        gradients, aux = _gradient(loss, params, create_graph=False)
        return {name: gradient.detach() for name, gradient in gradients.items()}, aux

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


def _gradient(loss: ScalarWithAux, params: Mapping[str, Tensor], create_graph: bool) -> tuple[dict[str, Tensor], Any]:
    """The gradient of a loss. A parameter that the loss does not use has the gradient 0.

    Outside of `torch.func` by `torch.autograd`, under which layers are faster and more of them work; inside by
    `torch.func`. Without gradients around it (`torch.no_grad()`) it leaves no graph.

    Raises:
        RuntimeError: in `torch.inference_mode()`, where no gradient exists.
    """
    if active_transforms():
        # Constant gradients need no graph; without one they cost the memory of one step.
        with torch.set_grad_enabled(create_graph and torch.is_grad_enabled()):
            return torch.func.grad(loss, has_aux=True)(dict(params))
    if torch.is_inference_mode_enabled():
        raise RuntimeError("an inner loop needs gradients, which torch.inference_mode() forbids; use torch.no_grad().")
    create_graph = create_graph and torch.is_grad_enabled()
    with torch.enable_grad():
        # Views: the loss may use the same tensor elsewhere too, as an argument or under another name.
        inputs = {
            name: value.view_as(value) if create_graph and value.requires_grad else value.detach().requires_grad_()
            for name, value in params.items()
        }
        value, aux = loss(inputs)
        gradients = torch.autograd.grad(value, list(inputs.values()), create_graph=create_graph, materialize_grads=True)
    return dict(zip(inputs, gradients, strict=True)), aux
