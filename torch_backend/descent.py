"""`descend`: the inner loop under every algorithm, as one pure function."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from metabridge.adaptation.rates import check_optimiser
from metabridge.adaptation.steps import check_adjoint, check_descending, check_scalar, count_steps
from metabridge.adaptation.trees import check_leaves, flatten, map_leaves
from metabridge.checks import check_callable, check_instance
from torch_backend.adjoints import Adjoint, Unrolled
from torch_backend.optimisers import FOREIGN, Optimiser
from torch_backend.trees import is_differentiable

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
    `state`, and to every tensor inside of the optimiser. Outside of `torch.func` the loop uses `torch.autograd`, inside
    of `torch.func.grad` and `torch.func.vmap` it uses `torch.func`. Under `torch.no_grad()`, or if no gradient could
    flow because none of these tensors requires one, it leaves no graph and needs the memory of one step.

    >>> import torch
    >>> from torch_backend.optimisers import sgd
    >>> context = torch.zeros(2)                                 # any tree of tensors, here a single one
    >>> target = torch.tensor([1.0, 3.0])
    >>> descend(lambda c, t: ((c - t) ** 2).sum(), context, target, optimiser=sgd(0.25), steps=2).params.tolist()
    [0.75, 2.25]

    Args:
        loss: `(params, *args)` → scalar; with `per_step` `(params, *args, per_step[k])`.
        params: a tensor, or a tree of tensors: mapping, list, tuple, named tuple. All of it descends; a parameter
            that the loss does not use has the gradient 0. `requires_grad` does not matter.
        args: further arguments of `loss`, for what an outer loop learns or differentiates.
        optimiser: of `torch_backend.optimisers`, or any pair of functions like them. It sees the parameters as they
            are given.
        steps: number of steps, 0 included; `None` takes one step per entry of `per_step`.
        adjoint: how the loop is differentiated: `Unrolled()` or `FirstOrder()` of `torch_backend.adjoints`.
        state: the optimiser's state to start from; `None` starts anew.
        per_step: one value per step, such as its mini-batch.
        has_aux: whether `loss` returns a pair (scalar, anything).

    Returns:
        The parameters, the optimiser's state, and the second values of `loss`.

    Raises:
        TypeError: if `optimiser` is no pair of functions, or `adjoint` no adjoint.
        ValueError: if `steps` is negative or does not fit `per_step`, or the loss is no scalar.
    """
    check_optimiser(optimiser, foreign=FOREIGN)
    check_callable(loss, "loss")
    check_adjoint(adjoint)
    check_instance(has_aux, bool, "has_aux")
    leaves = flatten(params)
    check_leaves(leaves, Tensor)
    check_descending({name: leaf for name, leaf in leaves.items() if not is_differentiable(leaf)})
    count = count_steps(steps, per_step)
    inputs = [args] * count if per_step is None else [(*args, values) for values in per_step]
    if state is None:
        state = optimiser.init(params)

    def step(carry: tuple[Any, Any], arguments: Sequence[Any]) -> tuple[tuple[Any, Any], Any]:
        params, state = carry

        def scalar(params: Any) -> tuple[Tensor, Any]:
            result = loss(params, *arguments)
            value, aux = result if has_aux else (result, ())
            check_scalar(value)
            return value, aux

        gradients, aux = adjoint.gradient(scalar, params)
        updates, state = optimiser.update(gradients, state, params)
        return (map_leaves(add_update, params, updates), state), aux

    (params, state), aux = adjoint.loop(step, (params, state), inputs)
    return Descent(params, state, aux)


def add_update(value: Tensor, update: Tensor) -> Tensor:
    """`value + update` in the dtype of `value`."""
    return (value + update).to(value.dtype)
