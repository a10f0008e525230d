"""`descend`: the inner loop under every algorithm, as one pure function."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jax_backend.adjoints import Adjoint, Unrolled
from jax_backend.optimisers import FOREIGN, Optimiser
from jax_backend.trees import is_array, is_differentiable, named_leaves, uphill
from metabridge.adaptation.rates import check_optimiser
from metabridge.adaptation.steps import check_adjoint, check_descending, check_scalar, count_steps
from metabridge.checks import check_callable, check_instance, require

__all__ = ["Descent", "descend"]


class Descent(NamedTuple):
    """The end of an inner loop.

    Attributes:
        params: the parameters after the last step, in the structure that was given.
        state: the optimiser's state; give it to `descend` to go on.
        aux: the second value of `loss` at every step, with `has_aux=True`; else a list of `()`.
    """

    params: Any
    state: Any
    aux: list[Any]


def descend(
    loss: Callable[..., Any],
    params: Any,
    *args: Any,
    optimiser: Optimiser,
    steps: int | None = None,
    adjoint: Adjoint = Unrolled(),  # noqa: B008  # frozen
    state: Any = None,
    per_step: Sequence[Any] | None = None,
    has_aux: bool = False,
) -> Descent:
    """Minimise `loss` by `steps` steps of an optimiser; a pure, differentiable function of all its arguments.

    Step k computes `φ_{k+1} = φ_k + update(∇ loss(φ_k, *args), …)` from φ_0 = `params`: the inner loop of Finn,
    Abbeel, Levine 2017 (arXiv 1703.03400, equation 1) for any optimiser. Gradients flow to `params`, to `args`, to
    `state`, and to every array inside of the optimiser. A loop of more than five steps is a `lax.scan`, so its
    compile time does not grow with the number of steps, and a learning rate that is a function of the step gets a
    traced step.

    >>> import jax.numpy as jnp
    >>> from jax_backend.optimisers import sgd
    >>> context = jnp.zeros(2)                                   # any pytree of arrays, here a single one
    >>> target = jnp.array([1.0, 3.0])
    >>> print(descend(lambda c, t: ((c - t) ** 2).sum(), context, target, optimiser=sgd(0.25), steps=2).params)
    [0.75 2.25]

    Args:
        loss: `(params, *args)` → scalar; with `per_step` `(params, *args, per_step[k])`.
        params: any pytree of arrays. All of it descends; a parameter that the loss does not use has the gradient 0.
        args: further arguments of `loss`, for what an outer loop learns or differentiates.
        optimiser: of `jax_backend.optimisers`, or any transformation of Optax that needs no more than gradients and
            parameters.
        steps: number of steps, 0 included; `None` takes one step per entry of `per_step`.
        adjoint: how the loop is differentiated: `Unrolled()` or `FirstOrder()` of `jax_backend.adjoints`.
        state: the optimiser's state to start from; `None` starts anew.
        per_step: one value per step, such as its mini-batch: pytrees of one structure, with arrays of the same shapes.
        has_aux: whether `loss` returns a pair (scalar, pytree of arrays).

    Returns:
        The parameters, the optimiser's state, and the second values of `loss`.

    Raises:
        TypeError: if `optimiser` is no pair of functions, or `adjoint` no adjoint.
        ValueError: if `steps` is negative or does not fit `per_step`, the values of `per_step` differ in structure or
            shape, or the loss is no scalar.
    """
    check_optimiser(optimiser, foreign=FOREIGN)
    check_callable(loss, "loss")
    check_adjoint(adjoint)
    check_instance(has_aux, bool, "has_aux")
    count = count_steps(steps, per_step)
    if count and per_step is not None:
        _check_alike(per_step)
    check_descending({name: value for name, value in named_leaves(params).items() if not is_differentiable(value)})
    inputs: list[tuple[Any, ...]] = [()] * count if per_step is None else [(values,) for values in per_step]
    if state is None:
        state = optimiser.init(params)

    def step(carry: tuple[Any, Any], arguments: Sequence[Any]) -> tuple[tuple[Any, Any], Any]:
        params, state = carry

        def scalar(params: Any) -> tuple[jax.Array, Any]:
            result = loss(params, *args, *arguments)
            value, aux = result if has_aux else (result, ())
            check_scalar(value)
            return value, aux

        gradients, aux = adjoint.gradient(scalar, params)
        updates, state = optimiser.update(uphill(gradients), state, params)
        return (optax.apply_updates(params, updates), state), aux

    (params, state), aux = adjoint.loop(step, (params, state), inputs)
    return Descent(params, state, aux)


def _check_alike(per_step: Sequence[Any]) -> None:
    """Raise `ValueError` unless all values are pytrees of one structure with arrays of the same shapes."""
    first, *others = (_structure_and_shapes(values) for values in per_step)
    for number, found in enumerate(others, 1):
        for name, wanted, value in zip(("structure", "shapes"), first, found, strict=True):
            require(value == wanted, f"per_step[{number}]", f"of the {name} of `per_step[0]`, {wanted}", value)


def _structure_and_shapes(values: Any) -> tuple[Any, list[tuple[int, ...]]]:
    leaves, structure = jax.tree.flatten(values)
    return structure, [jnp.shape(leaf) for leaf in leaves if is_array(leaf)]
