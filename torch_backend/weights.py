"""Neutral parameters (contract C6) in and out of torch, where names and axis order are already the neutral ones."""

from collections.abc import Mapping

import torch
from torch import Tensor

from metabridge.configs import ModelConfig
from metabridge.parameters import Parameters, parameter_shapes
from metabridge.subdicts import check_names, check_shape

__all__ = ["from_neutral", "to_neutral"]


def from_neutral(
    parameters: Parameters,
    model: ModelConfig,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """Neutral parameters as tensors, to be passed as `params`.

    Args:
        parameters: name → array, exactly the names of `parameter_shapes(model)`.
        model: the network they are for.
        dtype: dtype of the tensors; `None` keeps each array's.
        device: where to put them; `None` is the CPU.

    Raises:
        ValueError: for a missing, unknown or mis-shaped parameter.
    """
    shapes = parameter_shapes(model)
    check_names(parameters, shapes, model.name, "parameters")
    for name, shape in shapes.items():
        check_shape(name, parameters[name].shape, shape, model.name)
    return {name: torch.tensor(parameters[name], dtype=dtype, device=device) for name in shapes}


def to_neutral(params: Mapping[str, Tensor], model: ModelConfig) -> Parameters:
    """Tensors as neutral parameters, in their own dtype; the inverse of `from_neutral`."""
    check_names(params, parameter_shapes(model), model.name)
    return {name: params[name].detach().cpu().numpy().copy() for name in parameter_shapes(model)}
