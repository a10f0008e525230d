"""The inner loop's update."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from metabridge.subdicts import check_names
from torch_backend.modules import MetaModule

__all__ = ["StepSize", "gradient_update_parameters", "sgd_update"]

StepSize = float | Tensor | Mapping[str, Tensor | float]


def gradient_update_parameters(
    model: MetaModule,
    loss: Tensor | Callable[[dict[str, Tensor]], Tensor],
    params: Mapping[str, Tensor] | None = None,
    step_size: StepSize = 0.5,
    first_order: bool = False,
) -> dict[str, Tensor]:
    """One step of gradient descent on `loss`, as a new dictionary through which gradients flow.

    `params[name] − step_size · d loss / d params[name]`, Torchmeta's function of this name and equation (1) of
    Finn et al. 2017.

    Args:
        model: supplies the parameters if `params` is `None`.
        loss: a scalar tensor computed with `params`, or a function from such a dictionary to a scalar (the form
            that works inside `torch.func` transforms, and the one `jax_backend` takes).
        params: the parameters before the step, e.g. those of the previous one.
        step_size: a number, a scalar tensor (learned), or a mapping name → number or tensor for every parameter.
        first_order: leave the second derivatives out: the gradient counts as a constant.

    Returns:
        Name → updated tensor, in the order of `params`.

    Raises:
        ValueError: if `model` is no MetaModule, `step_size` lacks a name or has an unknown one, or a loss that is a
            tensor is no scalar or does not depend on one of the parameters.
    """
    if not isinstance(model, MetaModule):
        raise ValueError(
            f"`model` must be a MetaModule, got {type(model).__name__}; build it from torch_backend.modules."
        )
    before: dict[str, Tensor] = dict(model.meta_named_parameters() if params is None else params)
    if callable(loss):
        gradients = torch.func.grad(loss)(before)
    else:
        gradients = _gradients_of_value(loss, before, create_graph=not first_order)
    return sgd_update(before, gradients, step_size, first_order)


def _gradients_of_value(loss: Tensor, params: dict[str, Tensor], create_graph: bool) -> dict[str, Tensor]:
    if loss.ndim:
        raise ValueError(f"`loss` must be a scalar, got shape {tuple(loss.shape)}; average it over the examples.")
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
