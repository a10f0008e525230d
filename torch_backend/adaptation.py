"""The inner loop of a model: one step for loops of one's own, and the whole loop as a pure function."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from metabridge.adaptation.batchnorm_policies import BatchNormPolicy, check_buffers, check_function, check_policy
from metabridge.adaptation.names import Selection, check_names, check_unknown, select_names
from metabridge.adaptation.rates import check_optimiser, rates_by_name
from metabridge.adaptation.steps import check_scalar, check_steps
from metabridge.adaptation.trees import check_leaves, flatten, unflatten
from metabridge.checks import check_callable, check_mapping
from metabridge.networks.calls import check_meta_module
from torch_backend.adjoints import Adjoint, FirstOrder, Unrolled
from torch_backend.apply import Apply, Model, as_model, buffers_of, run_model
from torch_backend.descent import add_update, descend
from torch_backend.modules import MetaModule
from torch_backend.modules.placement import meta_entries
from torch_backend.optimisers import FOREIGN, Optimiser, StepSize, sgd
from torch_backend.trees import is_differentiable

__all__ = [
    "Adapted",
    "StepSize",
    "adapt",
    "complete_parameters",
    "gradient_update_parameters",
    "per_step_buffers",
]

Buffers = Mapping[str, Tensor]
"""Name → buffer, of a whole model."""


def gradient_update_parameters(
    model: MetaModule,
    loss: Tensor | Callable[[dict[str, Tensor]], Tensor],
    params: Mapping[str, Tensor] | None = None,
    step_size: StepSize = 0.5,
    first_order: bool = False,
    names: Selection = None,
) -> dict[str, Tensor]:
    """One step of gradient descent on `loss`, as a new dictionary through which gradients flow.

    `params[name] − step_size · d loss / d params[name]`, Torchmeta's function of this name and equation (1) of
    Finn et al. 2017: one step of `descend` with `sgd(step_size)`.

    Args:
        model: supplies the parameters if `params` is `None`.
        loss: a tensor of one element computed with `params`, or a function from such a dictionary to one (the form
            that works inside `torch.func` transforms, and the one `jax_backend` takes). A function may leave
            parameters unused: their gradient is 0. A tensor that does not depend on a selected parameter is an
            error: it was computed without `params`, or the parameter must be left out by `names`.
        params: the parameters before the step, e.g. those of the previous one.
        step_size: a number, a scalar tensor (learned), or a mapping name → number or tensor for every parameter
            that adapts. A tensor broadcasts to its parameter's shape.
        first_order: leave the second derivatives out: the gradient counts as a constant.
        names: which parameters adapt: a pattern of names such as `"head.*"` (ANIL, Raghu et al. 2020, arXiv
            1909.09157, adapts the head alone), several patterns, a predicate of the name, or `None` for all that
            are real or complex. The others are not differentiated.

    Returns:
        Name → updated tensor, in the order of `params`; those that do not adapt are the very tensors given.

    Raises:
        ValueError: if `model` is no MetaModule, `params` lacks a name or has an unknown one, `names` selects nothing,
            `step_size` is negative, lacks a name or has an unknown one, or a loss that is a tensor has several elements
            or does not depend on one of the parameters that adapt.
    """
    check_meta_module(model, MetaModule, "torch_backend")
    before, chosen = _select(model, params, names)
    optimiser = sgd(rates_by_name(step_size, {name: tuple(value.shape) for name, value in chosen.items()}, "step_size"))
    if callable(loss):
        adjoint = FirstOrder() if first_order else Unrolled()
        after = descend(
            lambda values: _scalar(loss({**before, **values})), chosen, optimiser=optimiser, steps=1, adjoint=adjoint
        ).params
    else:
        gradients = _gradients_of_value(loss, chosen, create_graph=not first_order)
        updates, _ = optimiser.update(gradients, optimiser.init(chosen), chosen)
        after = {name: add_update(value, updates[name]) for name, value in chosen.items()}
    return {**before, **after}


def _select(
    model: MetaModule, params: Mapping[str, Tensor] | None, names: Selection
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All parameters before a loop, checked, and those that adapt."""
    if params is not None:
        check_mapping(params, "params", "pass name → array, or None for the model's own")
    owner = type(model).__name__
    stored: dict[str, Tensor] = dict(model.meta_named_parameters())
    before = stored if params is None else dict(params)
    own = meta_entries(model, before)
    check_names(own, stored, owner)
    check_leaves(before, Tensor)
    return before, _chosen(own, names, owner)


def _chosen(own: Mapping[str, Tensor], names: Selection, owner: str) -> dict[str, Tensor]:
    """The parameters that `names` selects; with `None` all that can be differentiated."""
    known = own if names is not None else [name for name, value in own.items() if is_differentiable(value)]
    return {name: own[name] for name in select_names(known, names, owner)}


def _scalar(loss: Any) -> Any:
    """A loss of one element as a scalar, whatever its shape."""
    return loss.reshape(()) if isinstance(loss, Tensor) and loss.numel() == 1 else loss


def _gradients_of_value(loss: Tensor, params: dict[str, Tensor], create_graph: bool) -> dict[str, Tensor]:
    loss = _scalar(loss)
    check_scalar(loss)
    frozen = [name for name, value in params.items() if not value.requires_grad]
    if frozen:
        raise ValueError(
            f"parameter {frozen[0]!r} does not require a gradient, so a loss that is a tensor cannot adapt it; call "
            "requires_grad_(), leave it out by `names`, or pass a function of the parameters as `loss`."
        )
    if not params:
        return {}
    gradients = torch.autograd.grad(loss, list(params.values()), create_graph=create_graph, allow_unused=True)
    for name, gradient in zip(params, gradients, strict=True):
        if gradient is None:
            raise ValueError(
                f"`loss` does not depend on parameter {name!r}, so it cannot be adapted; compute the loss with "
                "these `params`, or leave the unused parameter out by `names`."
            )
    return dict(zip(params, gradients, strict=True))


def complete_parameters(model: MetaModule, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`params` and, for every name they lack, the value stored in the model.

    A model takes all parameters or none. This function completes a few of them.

    Args:
        model: supplies the other parameters.
        params: name → tensor for some of the model's parameters.

    Returns:
        Name → tensor for all of them, in the model's order.

    Raises:
        ValueError: if `model` is no MetaModule, or `params` holds a name it does not have.
    """
    check_meta_module(model, MetaModule, "torch_backend")
    stored: dict[str, Tensor] = dict(model.meta_named_parameters())
    params = meta_entries(model, params)
    check_unknown(params, list(stored), type(model).__name__)
    return {name: params.get(name, value) for name, value in stored.items()}


def per_step_buffers(model: MetaModule, steps: int) -> list[dict[str, Tensor]]:
    """`steps + 1` independent copies of the model's buffers: one for each inner step, and one for the query set.

    The initial buffers of `adapt` with `batch_norm="per-step"` (Antoniou, Edwards, Storkey 2019, arXiv 1810.09502,
    section 4).

    Raises:
        ValueError: if `model` is no MetaModule, or `steps` is no integer of at least 0.
    """
    check_meta_module(model, MetaModule, "torch_backend")
    check_steps(steps)
    return [{name: value.detach().clone() for name, value in model.meta_named_buffers()} for _ in range(steps + 1)]


class Adapted(NamedTuple):
    """A model adapted to a task.

    Attributes:
        params: all of the model's parameters, in the structure that was given; of a module name → tensor.
        buffers: name → tensor for all of its buffers; with `batch_norm="per-step"` a list of these, the last one for
            the query set.
    """

    params: Any
    buffers: dict[str, Tensor] | list[dict[str, Tensor]]


def adapt(
    model: Model,
    loss: Callable[[Any, Any], Tensor],
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
    `params`, to the inputs, and to whatever of the optimiser or the loss is a tensor. It is `descend` with the loss of
    a support set, and works where `descend` does. The model's own parameters and buffers never change.

        adapted = adapt(model, cross_entropy, *batch["train"], optimiser=sgd(0.4), steps=5)
        outputs, _ = call_with_buffers(model, batch["test"][0], params=adapted.params, buffers=adapted.buffers)

    Args:
        model: a MetaModule, an ordinary module, or a pure function `(params, inputs)` → outputs.
        loss: a function `(outputs, targets)` → scalar.
        inputs: of the support set.
        targets: of the support set.
        optimiser: of `torch_backend.optimisers`, or any pair of functions like them. It starts anew.
        steps: how many; 0 returns the parameters as they are.
        params: all parameters to start from; `None` for the module's own. Of a module name → tensor, of a function
            any tree of tensors.
        buffers: name → tensor for all buffers, `None` for the module's own; with `batch_norm="per-step"` a list of
            `steps + 1` of these, made by `per_step_buffers`.
        names: which parameters adapt, as in `gradient_update_parameters`; names inside a tree are joined by dots.
            The others come back as the very tensors given. `requires_grad` does not matter.
        adjoint: how the loop is differentiated, see `torch_backend.adjoints`.
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
    before, chosen = _start(prepared, params, buffers, names, batch_norm)
    policy: BatchNormPolicy | None = "batch" if batch_norm == "per-step" else batch_norm
    used: list[Any] = list(buffers) if isinstance(buffers, Sequence) else [buffers] * (steps + 1)

    def whole(values: dict[str, Tensor]) -> Any:
        given = {**before, **values}
        return given if isinstance(prepared, MetaModule) else unflatten(params, given)

    def support_loss(values: dict[str, Tensor], used: Buffers | None) -> tuple[Tensor, dict[str, Tensor]]:
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
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """All parameters before the loop by name, checked, and those that adapt."""
    if isinstance(model, MetaModule):
        return _select(model, params, names)
    check_function(params, buffers, batch_norm)
    leaves = flatten(params)
    check_leaves(leaves, Tensor)
    return leaves, _chosen(leaves, names, "`params`")
