"""Batch, instance and layer normalisation."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_backend.modules.exact.context import Context
from torch_backend.modules.exact.transforms import active_transforms

__all__ = ["batch_norm", "instance_norm", "layer_norm", "torch_batch_norm", "torch_instance_norm", "torch_layer_norm"]


def batch_norm(
    mode: Context,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` that writes no running statistics."""
    _check_features(input, running_mean, weight, bias)
    tracked = running_mean is not None and running_var is not None
    inside, outside = _inside_and_outside(weight, bias)
    if training and not (mode.frozen and tracked):
        normalised = F.batch_norm(input, None, None, *inside, training=True, eps=eps)
        if tracked and mode.observing:
            axes = [axis for axis in range(input.ndim) if axis != 1]
            _observe(mode, input, axes, running_mean, running_var, momentum)
    else:
        normalised = F.batch_norm(
            input,
            None if running_mean is None else mode.latest(running_mean),
            None if running_var is None else mode.latest(running_var),
            *inside,
            eps=eps,
        )
    return _scale_and_shift(normalised, *outside, (-1, *[1] * (input.ndim - 2)))


def instance_norm(
    mode: Context,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.instance_norm` that writes no running statistics."""
    _check_features(input, running_mean, weight, bias)
    tracked = running_mean is not None and running_var is not None
    inside, outside = _inside_and_outside(weight, bias)
    if use_input_stats and not (mode.frozen and tracked):
        normalised = F.instance_norm(input, None, None, *inside, eps=eps)
        if tracked and mode.observing:
            _observe(mode, input, list(range(2, input.ndim)), running_mean, running_var, momentum)
    else:
        normalised = F.batch_norm(
            input,
            None if running_mean is None else mode.latest(running_mean),
            None if running_var is None else mode.latest(running_var),
            *inside,
            eps=eps,
        )
    return _scale_and_shift(normalised, *outside, (-1, *[1] * (input.ndim - 2)))


def _check_features(input: Tensor, *per_feature: Tensor | None) -> None:
    """Scaling and shifting would broadcast where torch refuses."""
    for each in per_feature:
        if each is not None and len(each) != input.shape[1]:
            raise RuntimeError(f"`input` must have {len(each)} channels in its second axis, got {tuple(input.shape)}.")


def _observe(
    mode: Context,
    input: Tensor,
    axes: list[int],
    running_mean: Any,
    running_var: Any,
    momentum: float,
) -> None:
    variance, mean = torch.var_mean(input.detach(), axes)
    if mean.ndim == 2:  # of every instance: their average is tracked
        variance, mean = variance.mean(0), mean.mean(0)
    mode.update(running_mean, mean, momentum)
    mode.update(running_var, variance, momentum)


def layer_norm(
    mode: Context,
    input: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`F.layer_norm` with its weight outside under `torch.func`."""
    del mode
    inside, outside = _inside_and_outside(weight, bias)
    normalised = F.layer_norm(input, normalized_shape, *inside, eps=eps)
    return _scale_and_shift(normalised, *outside, tuple(normalized_shape))


Affine = tuple[Tensor | None, Tensor | None]


def _inside_and_outside(weight: Tensor | None, bias: Tensor | None) -> tuple[Affine, Affine]:
    """(weight and bias for torch's function, those to be applied afterwards).

    Under `torch.func` torch's functions are wrong if they are given their weight: with a `vmap` around the call, or
    around its derivative alone, as in `jacrev`. Under `torch.autograd` they are right, and a third faster with it.
    """
    return ((None, None), (weight, bias)) if active_transforms() else ((weight, bias), (None, None))


def _scale_and_shift(normalised: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    weight = None if weight is None else weight.to(normalised.dtype).view(shape)
    bias = None if bias is None else bias.to(normalised.dtype).view(shape)
    if weight is not None and bias is not None:
        return torch.addcmul(bias, normalised, weight)
    scaled = normalised if weight is None else normalised * weight
    return scaled if bias is None else scaled + bias


def torch_batch_norm(
    mode: Context,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """`torch.batch_norm`, which has its arguments in another order."""
    del cudnn_enabled
    return batch_norm(mode, input, running_mean, running_var, weight, bias, training, momentum, eps)


def torch_instance_norm(
    mode: Context,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """`torch.instance_norm`, which has its arguments in another order."""
    del cudnn_enabled
    return instance_norm(mode, input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def torch_layer_norm(
    mode: Context,
    input: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """`torch.layer_norm`, which has one argument more."""
    del cudnn_enable
    return layer_norm(mode, input, normalized_shape, weight, bias, eps)
