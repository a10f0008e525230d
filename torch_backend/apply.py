"""A model of any kind as a pure function of its parameters, buffers and inputs."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from metabridge.adaptation.batchnorm_policies import BatchNormPolicy
from metabridge.networks.calls import check_model
from torch_backend.modules import MetaModule, as_meta_module, call_with_buffers

__all__ = ["Apply", "Model", "as_model", "buffers_of", "has_convolutions", "run_model"]

Apply = Callable[[Any, Any], Any]
"""A pure function `(params, inputs)` → outputs; `params` may be any tree of tensors."""

Model = nn.Module | Apply
"""A MetaModule, an ordinary module, or a pure function."""


def as_model(model: Model) -> MetaModule | Apply:
    """A MetaModule or a pure function as it is, an ordinary module as a MetaModule.

    Raises:
        TypeError: for anything else, a class among them.
    """
    check_model(model, "a torch.nn.Module")
    if isinstance(model, nn.Module) and not isinstance(model, MetaModule):
        return as_meta_module(model)
    return model


def has_convolutions(model: MetaModule | Apply) -> bool | None:
    """Whether a module has layers for convolutions; `None` of a function, whose content is unknown."""
    if not isinstance(model, MetaModule):
        return None
    return any(isinstance(each, _ConvNd) for each in model.modules())


def run_model(
    model: MetaModule | Apply,
    params: Any,
    inputs: Any,
    buffers: Mapping[str, Tensor] | None = None,
    batch_norm: BatchNormPolicy | None = None,
) -> tuple[Any, dict[str, Tensor]]:
    """The outputs of a model with these parameters, and the buffers that the call moved, without a graph.

    Args:
        model: what `as_model` returned.
        params: all parameters.
        inputs: of the model.
        buffers: name → tensor for all buffers of a module; `None` for its own, which the call leaves alone.
        batch_norm: `"batch"` or `"frozen"`, `None` for the module's own policy.
    """
    if not isinstance(model, MetaModule):
        return model(params, inputs), {}
    if buffers is None and batch_norm is None:
        return model(inputs, params=params), {}
    outputs, moved = call_with_buffers(model, inputs, params=params, buffers=buffers, batch_norm=batch_norm)
    return outputs, {name: value.detach() for name, value in moved.items()}


def buffers_of(model: MetaModule | Apply) -> dict[str, Tensor]:
    """Name → buffer of a module; a function has none."""
    return dict(model.meta_named_buffers()) if isinstance(model, MetaModule) else {}
