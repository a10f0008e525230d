"""The inner loop: one step of it for loops that a user writes, and the whole of it as a pure function."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from jax_backend.modules import MetaModule, call_with_buffers
from jax_backend.modules.variables import aliases, given_names
from jax_backend.optimisers import Optimiser, StepSize
from metabridge.adaptation.batchnorm_policies import BatchNormPolicy, check_policy
from metabridge.adaptation.names import Adapt, check_names, check_unknown, select_names
from metabridge.adaptation.rates import check_buffers, check_optimiser, check_steps, rates_by_name

__all__ = [
    "Adapted",
    "StepSize",
    "adapt",
    "complete_parameters",
    "gradient_update_parameters",
    "per_step_buffers",
    "sgd_update",
]

Buffers = Mapping[str, jax.Array]
"""Name → buffer, of a whole model."""


def gradient_update_parameters(
    model: MetaModule,
    loss: Callable[[dict[str, jax.Array]], jax.Array],
    params: Mapping[str, jax.Array] | None = None,
    step_size: StepSize = 0.5,
    first_order: bool = False,
    adapt: Adapt = None,
) -> dict[str, jax.Array]:
    """One step of gradient descent on `loss`, as a new dictionary through which gradients flow.

    `params[name] − step_size · d loss / d params[name]`, equation (1) of Finn et al. 2017; the mirror of
    `torch_backend.adaptation.gradient_update_parameters`, except that JAX differentiates functions, not values.

    Args:
        model: supplies the parameters if `params` is `None`.
        loss: a function from a dictionary of parameters to a scalar.
        params: the parameters before the step, e.g. those of the previous one.
        step_size: a number, a scalar array (learned), or a mapping name → number or array for every parameter that
            adapts.
        first_order: leave the second derivatives out: the gradient counts as a constant.
        adapt: which parameters adapt: a pattern of names such as `"head.*"` (ANIL, Raghu et al. 2020, arXiv
            1909.09157, adapts the head alone), several patterns, a predicate of the name, or `None` for all. The
            others are not differentiated.

    Returns:
        Name → updated array, in the order of `params`; those that do not adapt are the very arrays given.

    Raises:
        TypeError: if `loss` is no function.
        ValueError: if `model` is no MetaModule, `params` lacks a name or has an unknown one, `adapt` selects nothing,
            or `step_size` is negative, lacks a name or has an unknown one.
    """
    _check_model(model)
    if not callable(loss):
        raise TypeError(
            f"`loss` must be a function of the parameters, got {type(loss).__name__}; "
            "pass for example lambda params: mean_squared_error(model(inputs, params=params), targets)."
        )
    stored = dict(model.meta_named_parameters())
    before = stored if params is None else dict(params)
    given_names(model, before)
    chosen = {name: before[name] for name in select_names(before, adapt, type(model).__name__)}
    rates_by_name(step_size, {name: tuple(each.shape) for name, each in chosen.items()}, "step_size")
    gradients = jax.grad(lambda values: loss({**before, **values}))(chosen)
    # JAX sorts the names of a mapping; this keeps the order of `before`.
    return {**before, **sgd_update(chosen, gradients, step_size, first_order)}


def _check_model(model: object) -> None:
    if not isinstance(model, MetaModule):
        raise ValueError(
            f"`model` must be a MetaModule, got {type(model).__name__}; build it from jax_backend.modules."
        )


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
        return jax.tree.map(
            lambda value, gradient: (value - step_size * gradient).astype(value.dtype), params, gradients
        )
    if not isinstance(params, Mapping):
        raise TypeError(
            f"`step_size` by name needs `params` to be a mapping name → array, got {type(params).__name__}; "
            "pass one number or scalar array."
        )
    check_names(step_size, params, "the model", "step_size")
    return {name: (value - step_size[name] * gradients[name]).astype(value.dtype) for name, value in params.items()}


def complete_parameters(model: MetaModule, params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """`params` and, for every name they lack, the value stored in the model.

    A model takes all parameters or none. To replace a few, say so with this function.

    Args:
        model: supplies the other parameters.
        params: name → array for some of the model's parameters.

    Returns:
        Name → array for all of them, in the model's order.

    Raises:
        ValueError: if `model` is no MetaModule, or `params` holds a name it does not have.
    """
    _check_model(model)
    names = aliases(model).values()  # a shared parameter may be given by any of its names
    check_unknown(params, [name for each in names for name in each], type(model).__name__)
    given = {each[0]: next((alias for alias in each if alias in params), each[0]) for each in names}
    return {given[name]: params.get(given[name], value) for name, value in model.meta_named_parameters()}


def per_step_buffers(model: MetaModule, steps: int) -> list[dict[str, jax.Array]]:
    """`steps + 1` independent copies of the model's buffers: one for each inner step, and one for the query set.

    Where `adapt` with `batch_norm="per-step"` begins (Antoniou, Edwards, Storkey 2019, arXiv 1810.09502, section 4).

    Raises:
        ValueError: if `model` is no MetaModule, or `steps` is no integer of at least 0.
    """
    _check_model(model)
    check_steps(steps)
    return [{name: jnp.array(value) for name, value in model.meta_named_buffers()} for _ in range(steps + 1)]


class Adapted(NamedTuple):
    """A model adapted to a task.

    Attributes:
        params: name → array for all of the model's parameters, in its order.
        buffers: name → array for all of its buffers; with `batch_norm="per-step"` a list of these, the last one for
            the query set.
    """

    params: dict[str, jax.Array]
    buffers: dict[str, jax.Array] | list[dict[str, jax.Array]]


def adapt(
    model: MetaModule,
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    inputs: jax.Array,
    targets: jax.Array,
    *,
    optimiser: Optimiser,
    steps: int = 1,
    params: Mapping[str, jax.Array] | None = None,
    buffers: Buffers | Sequence[Buffers] | None = None,
    names: Adapt = None,
    first_order: bool = False,
    batch_norm: BatchNormPolicy | None = None,
) -> Adapted:
    """The inner loop: `steps` steps of an optimiser on one support set, as a pure function.

    The outer loop of equation (1) in Finn et al. 2017 (arXiv 1703.03400) differentiates it: gradients flow to
    `params`, to the inputs, and to whatever of the optimiser or the loss is an array. Works inside `jax.grad`,
    `jax.vmap` and `jax.jit`. The model's own parameters and buffers never change.

        adapted = adapt(model, cross_entropy, *batch["train"], optimiser=sgd(0.4), steps=5)
        outputs, _ = call_with_buffers(model, batch["test"][0], params=adapted.params, buffers=adapted.buffers)

    Args:
        model: called through `call_with_buffers`.
        loss: a function `(outputs, targets)` → scalar.
        inputs: of the support set.
        targets: of the support set.
        optimiser: of `jax_backend.optimisers`, or any transformation of Optax that needs no more than
            gradients and parameters. It starts anew.
        steps: how many; 0 returns the parameters as they are.
        params: name → array for all parameters to start from; `None` for the model's own.
        buffers: name → array for all buffers, `None` for the model's own; with `batch_norm="per-step"` a list of
            `steps + 1` of these, made by `per_step_buffers`.
        names: which parameters adapt, as `adapt` in `gradient_update_parameters`. The others come back as the very
            arrays given.
        first_order: leave the second derivatives out: the gradients count as constants.
        batch_norm: `"batch"`, `"frozen"` or `"per-step"`, see `metabridge.adaptation.batchnorm_policies`; `None`
            for the model's own policy. Only `"per-step"` returns other buffers than it was given.

    Returns:
        The parameters after the last step, and the buffers to go with them.

    Raises:
        TypeError: if `optimiser` is no pair of functions.
        ValueError: if `model` is no MetaModule, `params` lacks a name or has an unknown one, `names` selects nothing,
            `buffers` do not fit `batch_norm` and `steps`, or the loss is no scalar.
    """
    _check_model(model)
    check_optimiser(optimiser)
    check_steps(steps)
    if batch_norm is not None:
        check_policy(batch_norm, get_args(BatchNormPolicy))
    check_buffers(buffers, batch_norm, steps)
    owner = type(model).__name__
    stored: dict[str, jax.Array] = dict(model.meta_named_parameters())
    before = stored if params is None else dict(params)
    given_names(model, before)
    chosen = {name: before[name] for name in select_names(before, names, owner, "names")}
    policy: BatchNormPolicy | None = "batch" if batch_norm == "per-step" else batch_norm
    own_buffers: Any = dict(model.meta_named_buffers()) if buffers is None else buffers
    of_step: list[dict[str, jax.Array]] = [dict(each) for each in own_buffers] if batch_norm == "per-step" else []

    state = optimiser.init(chosen)
    for step in range(steps):
        used = of_step[step] if of_step else own_buffers

        def support_loss(values: dict[str, jax.Array], used: Buffers = used) -> tuple[jax.Array, dict[str, jax.Array]]:
            outputs, after = call_with_buffers(
                model, inputs, params={**before, **values}, buffers=used, batch_norm=policy
            )
            value = loss(outputs, targets)
            if value.ndim:
                raise ValueError(f"`loss` must be a scalar, got shape {value.shape}; average it over the examples.")
            return value, after

        gradients, after = jax.grad(support_loss, has_aux=True)(chosen)
        if first_order:
            gradients = jax.lax.stop_gradient(gradients)
        if of_step:
            of_step[step] = {name: jax.lax.stop_gradient(value) for name, value in after.items()}
        updates, state = optimiser.update(gradients, state, chosen)
        chosen = optax.apply_updates(chosen, updates)
    return Adapted({**before, **chosen}, of_step or dict(own_buffers))
