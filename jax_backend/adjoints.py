"""Adjoints: how an inner loop is differentiated, as a value for `adjoint=`.

An adjoint decides two things about a loop: the gradient that a step uses (`gradient`) and how the steps follow each
other (`loop`). `jax_backend.descent.descend` supplies the step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp

__all__ = ["Adjoint", "FirstOrder", "Unrolled"]

Carry = TypeVar("Carry")

ScalarWithAux = Callable[[Any], tuple[jax.Array, Any]]
"""A function of a pytree of parameters that returns a scalar and a second value."""

WRITTEN_OUT = 5
"""Loops of at most so many steps are written out; longer ones are a `lax.scan`, whose compile time is that of one.

On a CPU a scan of two to five steps takes a tenth to a fifth longer to run, of an MLP as of Conv4.
"""


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
        return jax.grad(loss, has_aux=True)(params)

    def loop(
        self, step: Callable[[Carry, Any], tuple[Carry, Any]], carry: Carry, inputs: Sequence[Any]
    ) -> tuple[Carry, list[Any]]:
        """One step after another, in a scan if there are many."""
        return _in_order(step, carry, inputs)


@dataclass(frozen=True)
class FirstOrder:
    """Leave the second derivatives out: the gradient of every step counts as a constant.

    The first-order approximation of Finn, Abbeel, Levine 2017, arXiv 1703.03400, section 5.2. Gradients still flow to
    the parameters before the loop and to learned rates; the memory is that of one step.
    """

    def gradient(self, loss: ScalarWithAux, params: Any) -> tuple[Any, Any]:
        """The gradient as a constant."""
        gradients, aux = jax.grad(loss, has_aux=True)(jax.lax.stop_gradient(params))
        return jax.lax.stop_gradient(gradients), aux

    def loop(
        self, step: Callable[[Carry, Any], tuple[Carry, Any]], carry: Carry, inputs: Sequence[Any]
    ) -> tuple[Carry, list[Any]]:
        """One step after another, in a scan if there are many."""
        return _in_order(step, carry, inputs)


def _in_order(
    step: Callable[[Carry, Any], tuple[Carry, Any]], carry: Carry, inputs: Sequence[Any]
) -> tuple[Carry, list[Any]]:
    if len(inputs) <= WRITTEN_OUT:
        outputs = []
        for values in inputs:
            carry, output = step(carry, values)
            outputs.append(output)
        return carry, outputs
    leaves = [jax.tree.leaves(values) for values in inputs]
    if all(ours is first for each in leaves for ours, first in zip(each, leaves[0], strict=True)):
        # Every step has the very same: nothing to hand over.
        carry, stacked = jax.lax.scan(lambda carry, _: step(carry, inputs[0]), carry, None, len(inputs))
    else:
        stacked_inputs = jax.tree.map(lambda *each: jnp.stack(each), *inputs)
        carry, stacked = jax.lax.scan(step, carry, stacked_inputs)
    return carry, [jax.tree.map(lambda array, k=k: array[k], stacked) for k in range(len(inputs))]
