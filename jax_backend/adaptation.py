"""The inner loop of a model: one step for loops of one's own, and the whole loop as a pure function."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp

from jax_backend.adjoints import Adjoint, FirstOrder, Unrolled
from jax_backend.apply import Apply, Model, as_model, buffers_of, run_model
from jax_backend.descent import descend
from jax_backend.modules import MetaModule
from jax_backend.modules.variables import aliases, given_names, meta_entries
from jax_backend.optimisers import FOREIGN, Optimiser, StepSize, sgd
from jax_backend.trees import is_differentiable, named_leaves, split
from metabridge.adaptation.batchnorm_policies import BatchNormPolicy, check_buffers, check_function, check_policy
from metabridge.adaptation.names import Selection, check_unknown, select_names
from metabridge.adaptation.rates import check_optimiser, rates_by_name
from metabridge.adaptation.steps import check_steps
from metabridge.checks import check_callable, check_mapping
from metabridge.networks.calls import check_meta_module

__all__ = [
    "Adapted",
    "StepSize",
    "adapt",
    "complete_parameters",
    "gradient_update_parameters",
    "per_step_buffers",
]

Buffers = Mapping[str, jax.Array]
"""Name → buffer, of a whole model."""


def gradient_update_parameters(
    model: MetaModule,
    loss: Callable[[dict[str, jax.Array]], jax.Array],
    params: Mapping[str, jax.Array] | None = None,
    step_size: StepSize = 0.5,
    first_order: bool = False,
    names: Selection = None,
) -> dict[str, jax.Array]:
    """One step of gradient descent on `loss`, as a new dictionary through which gradients flow.

    `params[name] − step_size · d loss / d params[name]`, equation (1) of Finn et al. 2017; the mirror of
    `torch_backend.adaptation.gradient_update_parameters`, except that JAX differentiates functions, not values. It is
    one step of `descend` with `sgd(step_size)`.

    Args:
        model: supplies the parameters if `params` is `None`.
        loss: a function from a dictionary of parameters to an array of one element. Parameters that it leaves unused
            have the gradient 0.
        params: the parameters before the step, e.g. those of the previous one.
        step_size: a number, a scalar array (learned), or a mapping name → number or array for every parameter that
            adapts. An array broadcasts to its parameter's shape.
        first_order: leave the second derivatives out: the gradient counts as a constant.
        names: which parameters adapt: a pattern of names such as `"head.*"` (ANIL, Raghu et al. 2020, arXiv
            1909.09157, adapts the head alone), several patterns, a predicate of the name, or `None` for all that
            are real or complex. The others are not differentiated.

    Returns:
        Name → updated array, in the order of `params`; those that do not adapt are the very arrays given.

    Raises:
        TypeError: if `loss` is no function.
        ValueError: if `model` is no MetaModule, `params` lacks a name or has an unknown one, `names` selects nothing,
            or `step_size` is negative, lacks a name or has an unknown one.
    """
    check_meta_module(model, MetaModule, "jax_backend")
    if not callable(loss):
        raise TypeError(
            f"`loss` must be a function of the parameters, got {type(loss).__name__}; "
            "pass for example lambda params: mean_squared_error(model(inputs, params=params), targets)."
        )
    before, chosen = _select(model, params, names)
    rates = rates_by_name(step_size, {name: value.shape for name, value in chosen.items()}, "step_size")
    after = descend(
        lambda values: _scalar(loss({**before, **values})),
        chosen,
        optimiser=sgd(rates),
        steps=1,
        adjoint=FirstOrder() if first_order else Unrolled(),
    ).params
    # JAX sorts the names of a mapping; this keeps the order of `before`.
    return {**before, **after}


def _select(
    model: MetaModule, params: Mapping[str, jax.Array] | None, names: Selection
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """All parameters before a loop, checked, and those that adapt."""
    if params is not None:
        check_mapping(params, "params", "pass name → array, or None for the model's own")
    owner = type(model).__name__
    before = dict(model.meta_named_parameters()) if params is None else dict(params)
    given_names(model, before)
    own = meta_entries(model, before)
    known = own if names is not None else [name for name, value in own.items() if is_differentiable(value)]
    return before, {name: own[name] for name in select_names(known, names, owner)}


def _scalar(loss: Any) -> Any:
    """A loss of one element as a scalar, whatever its shape."""
    return loss.reshape(()) if getattr(loss, "size", None) == 1 else loss


def complete_parameters(model: MetaModule, params: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """`params` and, for every name they lack, the value stored in the model.

    A model takes all parameters or none. This function completes a few of them.

    Args:
        model: supplies the other parameters.
        params: name → array for some of the model's parameters.

    Returns:
        Name → array for all of them, in the model's order.

    Raises:
        ValueError: if `model` is no MetaModule, or `params` holds a name it does not have.
    """
    check_meta_module(model, MetaModule, "jax_backend")
    params = meta_entries(model, params)
    names = aliases(model).values()  # a shared parameter may be given by any of its names
    check_unknown(params, [name for each in names for name in each], type(model).__name__)
    given = {each[0]: next((alias for alias in each if alias in params), each[0]) for each in names}
    return {given[name]: params.get(given[name], value) for name, value in model.meta_named_parameters()}


def per_step_buffers(model: MetaModule, steps: int) -> list[dict[str, jax.Array]]:
    """`steps + 1` independent copies of the model's buffers: one for each inner step, and one for the query set.

    The initial buffers of `adapt` with `batch_norm="per-step"` (Antoniou, Edwards, Storkey 2019, arXiv 1810.09502,
    section 4).

    Raises:
        ValueError: if `model` is no MetaModule, or `steps` is no integer of at least 0.
    """
    check_meta_module(model, MetaModule, "jax_backend")
    check_steps(steps)
    return [{name: jnp.array(value) for name, value in model.meta_named_buffers()} for _ in range(steps + 1)]


class Adapted(NamedTuple):
    """A model adapted to a task.

    Attributes:
        params: all of the model's parameters, in the structure that was given; of a module name → array.
        buffers: name → array for all of its buffers; with `batch_norm="per-step"` a list of these, the last one for
            the query set.
    """

    params: Any
    buffers: dict[str, jax.Array] | list[dict[str, jax.Array]]


def adapt(
    model: Model,
    loss: Callable[[Any, Any], jax.Array],
    inputs: Any,
    targets: Any,
    *,
    optimiser: Optimiser,
    steps: int = 1,
    params: Any = None,
    buffers: Buffers | Sequence[Buffers] | None = None,
    names: Selection = None,
    adjoint: Adjoint = Unrolled(),  # noqa: B008  # frozen
    batch_norm: BatchNormPolicy | None = None,
) -> Adapted:
    """The inner loop of a model: `steps` steps of an optimiser on one support set, as a pure function.

    The outer loop of equation (1) in Finn et al. 2017 (arXiv 1703.03400) differentiates it: gradients flow to
    `params`, to the inputs, and to whatever of the optimiser or the loss is an array. It is `descend` with the loss of
    a support set, and works where `descend` does. The model's own parameters and buffers never change.

        adapted = adapt(model, cross_entropy, *batch["train"], optimiser=sgd(0.4), steps=5)
        outputs, _ = call_with_buffers(model, batch["test"][0], params=adapted.params, buffers=adapted.buffers)

    Args:
        model: a MetaModule, an ordinary module, or a pure function `(params, inputs)` → outputs.
        loss: a function `(outputs, targets)` → scalar.
        inputs: of the support set.
        targets: of the support set.
        optimiser: of `jax_backend.optimisers`, or any pair of functions like them. It starts anew.
        steps: how many; 0 returns the parameters as they are.
        params: all parameters to start from; `None` for the module's own. Of a module name → array, of a function
            any pytree of arrays.
        buffers: name → array for all buffers, `None` for the module's own; with `batch_norm="per-step"` a list of
            `steps + 1` of these, made by `per_step_buffers`.
        names: which parameters adapt, as in `gradient_update_parameters`; names inside a tree are joined by dots.
            The others come back as the very arrays given.
        adjoint: how the loop is differentiated, see `jax_backend.adjoints`.
        batch_norm: `"batch"`, `"frozen"` or `"per-step"`, see `metabridge.adaptation.batchnorm_policies`; `None`
            for the module's own policy. Only `"per-step"` returns other buffers than it was given.

    Returns:
        The parameters after the last step, and the buffers to go with them.

    Raises:
        TypeError: if `optimiser` is no pair of functions or of another framework, or `model` neither a module nor a
            function.
        ValueError: if `params` lacks a name or has an unknown one, `names` selects nothing, `buffers` do not fit
            `batch_norm` and `steps`, a function comes without `params` or with buffers, or the loss is no scalar.
    """
    check_callable(loss, "loss")
    check_optimiser(optimiser, foreign=FOREIGN)
    check_steps(steps)
    if batch_norm is not None:
        check_policy(batch_norm, get_args(BatchNormPolicy))
    check_buffers(buffers, batch_norm, steps)
    prepared = as_model(model)
    chosen, whole = _start(prepared, params, buffers, names, batch_norm)
    policy: BatchNormPolicy | None = "batch" if batch_norm == "per-step" else batch_norm
    used: list[Any] = list(buffers) if isinstance(buffers, Sequence) else [buffers] * (steps + 1)

    def support_loss(values: Any, used: Buffers | None) -> tuple[jax.Array, dict[str, jax.Array]]:
        outputs, moved = run_model(prepared, whole(values), inputs, used, policy)
        return loss(outputs, targets), moved

    after, _, moved = descend(
        support_loss, chosen, optimiser=optimiser, per_step=used[:steps], adjoint=adjoint, has_aux=True
    )
    if batch_norm == "per-step":
        return Adapted(whole(after), [*moved, dict(used[steps])])
    return Adapted(whole(after), buffers_of(prepared) if buffers is None else dict(used[steps]))


def _start(
    model: MetaModule | Apply, params: Any, buffers: object, names: Selection, batch_norm: str | None
) -> tuple[Any, Callable[[Any], Any]]:
    """The parameters that adapt, and a function from their values to all parameters."""
    if isinstance(model, MetaModule):
        before, chosen = _select(model, params, names)
        return chosen, lambda values: {**before, **values}
    check_function(params, buffers, batch_norm)
    return select_leaves(params, names)


def select_leaves(params: Any, names: Selection) -> tuple[Any, Callable[[Any], Any]]:
    """The leaves of a pytree that `names` selects, and a function from their values to the whole pytree.

    With `None` the pytree itself, or its real and complex leaves if there are others.
    """
    parts = split(params, is_differentiable)
    if names is None:
        return (parts.chosen, parts.merge) if parts.others else (params, lambda values: values)
    leaves = {name: leaf for name, leaf in named_leaves(params).items() if is_differentiable(leaf)}
    chosen = {name: leaves[name] for name in select_names(leaves, names, "`params`")}
    return chosen, lambda values: parts.merge(list({**leaves, **values}.values()))
