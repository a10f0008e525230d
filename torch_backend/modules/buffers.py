"""`call_with_buffers`: running statistics as values that go in and come out, instead of being changed in place."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from metabridge.adaptation.batchnorm_policies import BatchNormPolicy, check_policy
from metabridge.adaptation.names import check_entries
from torch_backend.modules.exact import ExactDerivatives
from torch_backend.modules.layer import MetaLayer, substituted
from torch_backend.modules.module import MetaModule

__all__ = ["call_with_buffers"]


def call_with_buffers(
    model: MetaModule,
    *inputs: Any,
    params: Mapping[str, Tensor] | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    batch_norm: BatchNormPolicy | None = None,
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
        batch_norm: `"batch"` or `"frozen"`; `None` for the model's own policy, see `as_meta_module`.
        options: further arguments of the forward pass.

    Returns:
        The outputs, and name → tensor of the buffers after the call, without a graph.

    Raises:
        ValueError: for another policy, or if `params` or `buffers` has a missing, unknown or mis-shaped entry.
    """
    if batch_norm is not None:
        check_policy(batch_norm, ("batch", "frozen"))
    own = dict(model.meta_named_buffers())
    given = own if buffers is None else dict(buffers)
    check_entries(given, {name: each.shape for name, each in own.items()}, type(model).__name__, "buffers")
    frozen = batch_norm == "frozen"
    context = ExactDerivatives(frozen=frozen, observing=True, follows_model=batch_norm is None)
    layers = [each for each in model.modules() if isinstance(each, MetaLayer)]
    before = [layer._meta_within for layer in layers]
    with substituted(model, {}, {name: given[name].clone() for name in own}):
        for layer in layers:
            layer._meta_within = context
        try:
            with context:
                outputs = model(*inputs, params=params, **options)
            after = {name: context.latest(buffer).detach() for name, buffer in model.named_buffers()}
            counters = [name for name in own if name.endswith("num_batches_tracked")]
            for name in counters:  # torch counts the batches of frozen layers too
                if not context.has_observed(model.get_buffer(name.replace("num_batches_tracked", "running_mean"))):
                    after[name] = given[name]
        finally:
            for layer, previous in zip(layers, before, strict=True):
                layer._meta_within = previous
    return outputs, given if frozen else after
