"""`call_with_buffers`: running statistics as values that go in and come out, instead of being changed in place."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from metabridge.batchnorm_policies import BatchNormPolicy, check_policy
from metabridge.subdicts import check_names, check_shape
from torch_backend.modules.exact import ExactDerivatives
from torch_backend.modules.layer import MetaLayer, substituted
from torch_backend.modules.module import MetaModule

__all__ = ["call_with_buffers"]


def call_with_buffers(
    model: MetaModule,
    *inputs: Any,
    params: Mapping[str, Tensor] | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    batch_norm: BatchNormPolicy = "batch",
    **options: Any,
) -> tuple[Any, dict[str, Tensor]]:
    """`model(*inputs, params=params, **options)` as a pure function of its buffers too.

    Nothing that is stored in the model changes. In training mode the policy says which statistics normalise:
    `"batch"` those of the batch at hand, and the returned running statistics have seen it; `"frozen"` the running
    ones of `buffers`, which are returned as they are. In evaluation mode they are used, and returned, in any case.

    Args:
        model: a MetaModule, in training or evaluation mode.
        inputs: what its forward pass takes.
        params: name → tensor for all its parameters; `None` for the stored ones.
        buffers: name → tensor for every name of `model.meta_named_buffers()`; `None` for the stored ones.
        batch_norm: `"batch"` or `"frozen"`.
        options: further arguments of the forward pass.

    Returns:
        The outputs, and name → tensor of the buffers after the call, without a graph.

    Raises:
        ValueError: for another policy, or if `params` or `buffers` has a missing, unknown or mis-shaped entry.
    """
    check_policy(batch_norm, ("batch", "frozen"))
    own = dict(model.meta_named_buffers())
    given = own if buffers is None else dict(buffers)
    check_names(given, own, type(model).__name__, "buffers")
    for name, buffer in own.items():
        check_shape(name, given[name].shape, buffer.shape, type(model).__name__, "buffers")
    context = ExactDerivatives(frozen=batch_norm == "frozen", observing=True)
    layers = [each for each in model.modules() if isinstance(each, MetaLayer)]
    with substituted(model, {}, {name: given[name].clone() for name in own}):
        for layer in layers:
            layer._within = context
        try:
            with context:
                outputs = model(*inputs, params=params, **options)
            after = {name: context.latest(buffer).detach() for name, buffer in model.named_buffers()}
        finally:
            for layer in layers:
                del layer._within
    return outputs, given if batch_norm == "frozen" else after
