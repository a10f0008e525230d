"""Bilinear maps, activations and weight normalisation."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_backend.modules.exact.context import Context

__all__ = ["bilinear", "hardsigmoid", "prelu", "weight_norm"]


def bilinear(mode: Context, input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.bilinear` as one contraction, which `vmap` can batch."""
    kind = input1.device.type
    if _casts(kind):  # autocast leaves `F.bilinear` in the widest dtype, but would narrow a contraction
        dtype = functools.reduce(torch.promote_types, (input1.dtype, input2.dtype, weight.dtype))
        with torch.autocast(kind, enabled=False):
            wide = None if bias is None else bias.to(dtype)
            return bilinear(mode, input1.to(dtype), input2.to(dtype), weight.to(dtype), wide)
    outputs = torch.einsum("...i,oij,...j->...o", input1, weight, input2)
    return outputs if bias is None else outputs + bias


def prelu(mode: Context, input: Tensor, weight: Tensor) -> Tensor:
    """`F.prelu` with the right derivative at 0."""
    del mode
    kind = input.device.type
    if _casts(kind) and input.dtype != torch.float64:
        input = input.to(torch.get_autocast_dtype(kind))
    weight = weight.to(input.dtype)
    slope = weight.view(-1, *[1] * (input.ndim - 2)) if input.ndim > 1 else weight
    return torch.where(input > 0, input, slope * input)


def weight_norm(mode: Context, v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """`g · v / ‖v‖`, differentiable twice."""
    del mode
    return v * (g / torch.norm_except_dim(v, 2, dim))


def hardsigmoid(mode: Context, input: Tensor, inplace: bool = False) -> Tensor:
    """`relu6(x + 3) / 6`, differentiable twice."""
    del mode, inplace
    return F.relu6(input + 3) / 6


def _casts(kind: str) -> bool:
    """Whether autocast is on for a kind of device."""
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
