"""The inner loop: one step of it for loops that a user writes, and the whole of it as a pure function."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from metabridge.adaptation.batchnorm_policies import BatchNormPolicy, check_policy
from metabridge.adaptation.names import Adapt, check_names, check_unknown, select_names
from metabridge.adaptation.rates import check_buffers, check_optimiser, check_steps, rates_by_name
from torch_backend.modules import MetaModule, call_with_buffers
from torch_backend.modules.exact import active_transforms
from torch_backend.optimisers import Optimiser, StepSize

__all__ = [
    "Adapted",
    "StepSize",
    "adapt",
    "complete_parameters",
    "gradient_update_parameters",
    "per_step_buffers",
    "sgd_update",
]

Buffers = Mapping[str, Tensor]
"""Name → buffer, of a whole model."""


def gradient_update_parameters(
    model: MetaModule,
    loss: Tensor | Callable[[dict[str, Tensor]], Tensor],
    params: Mapping[str, Tensor] | None = None,
    step_size: StepSize = 0.5,
    first_order: bool = False,
    adapt: Adapt = None,
) -> dict[str, Tensor]:
    """One step of gradient descent on `loss`, as a new dictionary through which gradients flow.

    `params[name] − step_size · d loss / d params[name]`, Torchmeta's function of this name and equation (1) of
    Finn et al. 2017.

    Args:
        model: supplies the parameters if `params` is `None`.
        loss: a scalar tensor computed with `params`, or a function from such a dictionary to a scalar (the form
            that works inside `torch.func` transforms, and the one `jax_backend` takes).
        params: the parameters before the step, e.g. those of the previous one.
        step_size: a number, a scalar tensor (learned), or a mapping name → number or tensor for every parameter
            that adapts.
        first_order: leave the second derivatives out: the gradient counts as a constant.
        adapt: which parameters adapt: a pattern of names such as `"head.*"` (ANIL, Raghu et al. 2020, arXiv
            1909.09157, adapts the head alone), several patterns, a predicate of the name, or `None` for all. The
            others are not differentiated.

    Returns:
        Name → updated tensor, in the order of `params`; those that do not adapt are the very tensors given.

    Raises:
        ValueError: if `model` is no MetaModule, `params` lacks a name or has an unknown one, `adapt` selects nothing,
            `step_size` is negative, lacks a name or has an unknown one, or a loss that is a tensor is no scalar or
            does not depend on one of the parameters that adapt.
    """
    _check_model(model)
    stored: dict[str, Tensor] = dict(model.meta_named_parameters())
    before = stored if params is None else dict(params)
    check_names(before, stored, type(model).__name__)
    chosen = {name: before[name] for name in select_names(before, adapt, type(model).__name__)}
    rates_by_name(step_size, {name: tuple(each.shape) for name, each in chosen.items()}, "step_size")
    if callable(loss):
        gradients = torch.func.grad(lambda values: loss({**before, **values}))(chosen)
    else:
        gradients = _gradients_of_value(loss, chosen, create_graph=not first_order)
    return {**before, **sgd_update(chosen, gradients, step_size, first_order)}


def gradient_of(
    loss: Callable[[dict[str, Tensor]], Tensor], params: Mapping[str, Tensor], create_graph: bool
) -> dict[str, Tensor]:
    """The gradient of a scalar function of parameters, which can be differentiated again if `create_graph`.

    Outside of `torch.func` by `torch.autograd`, under which the layers' operations are faster; inside by `torch.func`.
    Without gradients around it (`torch.no_grad()`) it leaves no graph.
    """
    if active_transforms():
        return torch.func.grad(loss)(dict(params))
    create_graph = create_graph and torch.is_grad_enabled()
    with torch.enable_grad():
        given = {
            n: each if create_graph and each.requires_grad else each.detach().requires_grad_()
            for n, each in params.items()
        }
        found = torch.autograd.grad(
            loss(given), list(given.values()), create_graph=create_graph, materialize_grads=True
        )
    return dict(zip(given, found, strict=True))


def _check_model(model: object) -> None:
    if not isinstance(model, MetaModule):
        raise ValueError(
            f"`model` must be a MetaModule, got {type(model).__name__}; build it from torch_backend.modules."
        )


def _check_scalar(loss: Tensor) -> None:
    if loss.ndim:
        raise ValueError(f"`loss` must be a scalar, got shape {tuple(loss.shape)}; average it over the examples.")


def _gradients_of_value(loss: Tensor, params: dict[str, Tensor], create_graph: bool) -> dict[str, Tensor]:
    _check_scalar(loss)
    frozen = [name for name, value in params.items() if not value.requires_grad]
    if frozen:
        raise ValueError(
            f"parameter {frozen[0]!r} does not require a gradient, so it cannot be adapted; call requires_grad_()."
        )
    gradients = torch.autograd.grad(loss, list(params.values()), create_graph=create_graph, allow_unused=True)
    for name, gradient in zip(params, gradients, strict=True):
        if gradient is None:
            raise ValueError(
                f"`loss` does not depend on parameter {name!r}, so it cannot be adapted; compute the loss with "
                "these `params`, or leave the unused parameter out of the model."
            )
    return dict(zip(params, gradients, strict=True))


def sgd_update(
    params: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor],
    step_size: StepSize,
    first_order: bool = False,
) -> dict[str, Tensor]:
    """`params − step_size · gradients`, name by name; arguments as in `gradient_update_parameters`."""
    sizes = step_size if isinstance(step_size, Mapping) else dict.fromkeys(params, step_size)
    check_names(sizes, params, "the model", "step_size")
    if first_order:
        gradients = {name: gradient.detach() for name, gradient in gradients.items()}
    return {name: value - sizes[name] * gradients[name] for name, value in params.items()}


def complete_parameters(model: MetaModule, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`params` and, for every name they lack, the value stored in the model.

    A model takes all parameters or none. To replace a few, say so with this function.

    Args:
        model: supplies the other parameters.
        params: name → tensor for some of the model's parameters.

    Returns:
        Name → tensor for all of them, in the model's order.

    Raises:
        ValueError: if `model` is no MetaModule, or `params` holds a name it does not have.
    """
    _check_model(model)
    stored: dict[str, Tensor] = dict(model.meta_named_parameters())
    check_unknown(params, list(stored), type(model).__name__)
    return {name: params.get(name, value) for name, value in stored.items()}


def per_step_buffers(model: MetaModule, steps: int) -> list[dict[str, Tensor]]:
    """`steps + 1` independent copies of the model's buffers: one for each inner step, and one for the query set.

    Where `adapt` with `batch_norm="per-step"` begins (Antoniou, Edwards, Storkey 2019, arXiv 1810.09502, section 4).

    Raises:
        ValueError: if `model` is no MetaModule, or `steps` is no integer of at least 0.
    """
    _check_model(model)
    check_steps(steps)
    return [{name: value.detach().clone() for name, value in model.meta_named_buffers()} for _ in range(steps + 1)]


class Adapted(NamedTuple):
    """A model adapted to a task.

    Attributes:
        params: name → tensor for all of the model's parameters, in its order.
        buffers: name → tensor for all of its buffers; with `batch_norm="per-step"` a list of these, the last one for
            the query set.
    """

    params: dict[str, Tensor]
    buffers: dict[str, Tensor] | list[dict[str, Tensor]]


def adapt(
    model: MetaModule,
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    optimiser: Optimiser,
    steps: int = 1,
    params: Mapping[str, Tensor] | None = None,
    buffers: Buffers | Sequence[Buffers] | None = None,
    names: Adapt = None,
    first_order: bool = False,
    batch_norm: BatchNormPolicy | None = None,
) -> Adapted:
    """The inner loop: `steps` steps of an optimiser on one support set, as a pure function.

    The outer loop of equation (1) in Finn et al. 2017 (arXiv 1703.03400) differentiates it: gradients flow to
    `params`, to the inputs, and to whatever of the optimiser or the loss is a tensor. Works inside `torch.func.grad`
    and `torch.func.vmap`; under `torch.no_grad()` it leaves no graph. The model's own parameters and buffers never
    change.

        adapted = adapt(model, cross_entropy, *batch["train"], optimiser=sgd(0.4), steps=5)
        outputs, _ = call_with_buffers(model, batch["test"][0], params=adapted.params, buffers=adapted.buffers)

    Args:
        model: called through `call_with_buffers`.
        loss: a function `(outputs, targets)` → scalar.
        inputs: of the support set.
        targets: of the support set.
        optimiser: of `torch_backend.optimisers`, or any pair of functions like them. It starts anew.
        steps: how many; 0 returns the parameters as they are.
        params: name → tensor for all parameters to start from; `None` for the model's own.
        buffers: name → tensor for all buffers, `None` for the model's own; with `batch_norm="per-step"` a list of
            `steps + 1` of these, made by `per_step_buffers`.
        names: which parameters adapt, as `adapt` in `gradient_update_parameters`. The others come back as the very
            tensors given.
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
    stored: dict[str, Tensor] = dict(model.meta_named_parameters())
    before = stored if params is None else dict(params)
    check_names(before, stored, owner)
    chosen = {name: before[name] for name in select_names(before, names, owner, "names")}
    policy: BatchNormPolicy | None = "batch" if batch_norm == "per-step" else batch_norm
    own_buffers: Any = dict(model.meta_named_buffers()) if buffers is None else buffers
    of_step: list[dict[str, Tensor]] = [dict(each) for each in own_buffers] if batch_norm == "per-step" else []

    state = optimiser.init(chosen)
    for step in range(steps):
        used = of_step[step] if of_step else own_buffers

        def support_loss(values: dict[str, Tensor], used: Buffers = used) -> tuple[Tensor, dict[str, Tensor]]:
            outputs, after = call_with_buffers(
                model, inputs, params={**before, **values}, buffers=used, batch_norm=policy
            )
            value = loss(outputs, targets)
            _check_scalar(value)
            return value, after

        # Constant gradients need no graph; without one they cost the memory of one step.
        with torch.no_grad() if first_order else contextlib.nullcontext():
            gradients, after = torch.func.grad(support_loss, has_aux=True)(chosen)
        if of_step:
            of_step[step] = {name: value.detach() for name, value in after.items()}
        updates, state = optimiser.update(gradients, state, chosen)
        chosen = {name: (value + updates[name]).to(value.dtype) for name, value in chosen.items()}
    return Adapted({**before, **chosen}, of_step or dict(own_buffers))
