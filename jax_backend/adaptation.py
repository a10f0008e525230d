"""The inner loop's update."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jax_backend.modules import MetaModule
from metabridge.subdicts import check_names

__all__ = ["StepSize", "gradient_update_parameters", "sgd_update"]

StepSize = float | jax.Array | Mapping[str, jax.Array | float]


def gradient_update_parameters(
    model: MetaModule,
    loss: Callable[[dict[str, jax.Array]], jax.Array],
    params: Mapping[str, jax.Array] | None = None,
    step_size: StepSize = 0.5,
    first_order: bool = False,
) -> dict[str, jax.Array]:
    """One step of gradient descent on `loss`, as a new dictionary through which gradients flow.

    `params[name] − step_size · d loss / d params[name]`, equation (1) of Finn et al. 2017; the mirror of
    `torch_backend.adaptation.gradient_update_parameters`, except that JAX differentiates functions, not values.

    Args:
        model: supplies the parameters if `params` is `None`.
        loss: a function from a dictionary of parameters to a scalar.
        params: the parameters before the step, e.g. those of the previous one.
        step_size: a number, a scalar array (learned), or a mapping name → number or array for every parameter.
        first_order: leave the second derivatives out: the gradient counts as a constant.

    Returns:
        Name → updated array, in the order of `params`.

    Raises:
        TypeError: if `loss` is no function.
        ValueError: if `model` is no MetaModule, or `step_size` lacks a name or has an unknown one.
    """
    if not isinstance(model, MetaModule):
        raise ValueError(
            f"`model` must be a MetaModule, got {type(model).__name__}; build it from jax_backend.modules."
        )
    if not callable(loss):
        raise TypeError(
            f"`loss` must be a function of the parameters, got {type(loss).__name__}; "
            "pass for example lambda params: mean_squared_error(model(inputs, params=params), targets)."
        )
    before = dict(model.meta_named_parameters() if params is None else params)
    after = sgd_update(before, jax.grad(loss)(before), step_size, first_order)
    return {name: after[name] for name in before}  # JAX sorts the names of a mapping


def sgd_update(params: Any, gradients: Any, step_size: StepSize, first_order: bool = False) -> Any:
    """`params − step_size · gradients`, array by array.

    Args:
        params: any pytree of arrays: a mapping name → array, nested ones, a module of another library.
        gradients: a pytree of the same structure.
        step_size: a number or scalar array; for a flat mapping `params` also a mapping name → number or array.
        first_order: the gradient counts as a constant.

    Returns:
        A pytree of the same structure.

    Raises:
        ValueError: if `step_size` lacks a name or has an unknown one.
        TypeError: if `step_size` is a mapping and `params` is none.
    """
    if first_order:
        gradients = jax.lax.stop_gradient(gradients)
    if not isinstance(step_size, Mapping):
        return jax.tree.map(lambda value, gradient: value - step_size * gradient, params, gradients)
    if not isinstance(params, Mapping):
        raise TypeError(
            f"`step_size` by name needs `params` to be a mapping name → array, got {type(params).__name__}; "
            "pass one number or scalar array."
        )
    check_names(step_size, params, "the model", "step_size")
    return {name: value - step_size[name] * gradients[name] for name, value in params.items()}
