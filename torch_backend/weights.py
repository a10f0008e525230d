"""Neutral parameters (contract C6) in and out of torch, where names and axis order are already the neutral ones.

Two kinds of mappings are neutral: the *parameters* that are passed as `params` (`from_neutral`, `to_neutral`), and
the *state* of a network, which is its parameters and its running statistics under the names of PyTorch's state
dict (`load_neutral`, `read_neutral`).
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from metabridge.adaptation.names import check_names
from metabridge.checks import check_instance, check_mapping
from metabridge.configs import ModelConfig
from metabridge.networks.layers import Chain
from metabridge.networks.parameters import Parameters, check_parameters, check_state, parameter_shapes
from torch_backend.modules import MetaModule

__all__ = ["from_neutral", "load_neutral", "read_neutral", "to_neutral"]


def from_neutral(
    parameters: Parameters,
    model: ModelConfig | Chain | MetaModule,
    dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """Neutral parameters as tensors, to be passed as `params`.

    Args:
        parameters: name → array, exactly the names of `parameter_shapes(model)` or `model.meta_named_parameters()`.
        model: the network they are for, its config, or a table of layers such as `RunConfig.layers`.
        dtype: dtype of the tensors; `None` keeps each array's.
        device: where to put them; `None` is the CPU.

    Raises:
        ValueError: for a parameter that is missing, unknown or of another shape.
    """
    shapes = _shapes(model)
    check_parameters(parameters, shapes, _owner(model))
    return {name: torch.tensor(parameters[name], dtype=dtype, device=device) for name in shapes}


def to_neutral(params: Mapping[str, Tensor], model: ModelConfig | Chain | MetaModule) -> Parameters:
    """Tensors as neutral parameters, in their own dtype; the inverse of `from_neutral`."""
    shapes = _shapes(model)
    check_names(params, shapes, _owner(model))
    return {name: _to_numpy(params[name]) for name in shapes}


def load_neutral(model: nn.Module, parameters: Parameters) -> None:
    """Write a neutral state into `model`, in place and in the model's own dtypes: a checked `load_state_dict`.

    Args:
        model: any module, for example torchvision's.
        parameters: name → array, exactly the names of `model.state_dict()`. A shared layer or parameter occurs
            under each of its names, with equal values.

    Raises:
        ValueError: for a name that is missing, unknown or of another shape, a count that is no integer, unequal
            values of one shared parameter, or a model on the meta device. Then nothing was written.
    """
    check_instance(model, nn.Module, "model")
    check_mapping(parameters, "parameters")
    state = model.state_dict(keep_vars=True)
    owner = type(model).__name__
    _check_has_numbers(state, owner)
    arrays = {name: np.array(value, order="C") for name, value in parameters.items()}
    firsts: dict[int, str] = {}
    check_state(
        arrays,
        shapes={name: tuple(tensor.shape) for name, tensor in state.items()},
        integers=[name for name, tensor in state.items() if not (tensor.is_floating_point() or tensor.is_complex())],
        shared={name: firsts.setdefault(id(tensor), name) for name, tensor in state.items()},
        owner=owner,
    )
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(torch.from_numpy(arrays[name]))


def read_neutral(model: nn.Module) -> Parameters:
    """The neutral state of `model`: copies of its parameters and buffers, under the names of its state dict.

    A shared layer or parameter occurs under each of its names.

    Raises:
        ValueError: for a model on the meta device.
    """
    check_instance(model, nn.Module, "model")
    state = model.state_dict()
    _check_has_numbers(state, type(model).__name__)
    return {name: _to_numpy(tensor) for name, tensor in state.items()}


def _shapes(model: ModelConfig | Chain | MetaModule) -> dict[str, tuple[int, ...]]:
    if isinstance(model, (ModelConfig, Chain)):
        return parameter_shapes(model)
    check_instance(model, (ModelConfig, Chain, MetaModule), "model")
    return {name: tuple(parameter.shape) for name, parameter in model.meta_named_parameters()}


def _owner(model: ModelConfig | Chain | MetaModule) -> str:
    if isinstance(model, Chain):
        return "the run"
    return model.name if isinstance(model, ModelConfig) else type(model).__name__


def _to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy().copy()


def _check_has_numbers(state: Mapping[str, Tensor], owner: str) -> None:
    """Raise `ValueError` for a meta tensor: writing to it does nothing, in silence."""
    for name, tensor in state.items():
        if tensor.is_meta:
            raise ValueError(f"{name!r} of {owner} has a shape but no numbers; build the model on a real device.")
