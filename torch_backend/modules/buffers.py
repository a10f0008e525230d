"""`call_with_buffers`: running statistics as values that go in and come out, instead of being changed in place."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from metabridge.adaptation.batchnorm_policies import BatchNormPolicy, check_policy
from metabridge.adaptation.names import check_entries
from metabridge.checks import check_mapping
from metabridge.networks.calls import check_meta_module
from torch_backend.modules.exact import ExactDerivatives
from torch_backend.modules.module import MetaModule
from torch_backend.modules.placement import placed

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
        ValueError: for another policy, or `buffers` that do not fit the model as `params` must, see `MetaModule`.
    """
    if batch_norm is not None:
        check_policy(batch_norm, ("batch", "frozen"))
    check_meta_module(model, MetaModule, "torch_backend")
    own = dict(model.meta_named_buffers())
    if buffers is not None:
        check_mapping(buffers, "buffers", "pass name → array, or None for the model's own")
    given = own if buffers is None else dict(buffers)
    check_entries(given, {name: each.shape for name, each in own.items()}, type(model).__name__, "buffers")
    frozen = batch_norm == "frozen"
    context = ExactDerivatives(frozen=frozen, observing=True, follows_model=batch_norm is None)
    with placed(model, None, {name: given[name].clone() for name in own}, context):
        outputs = model(*inputs, params=params, **options)
        after = {name: context.latest(buffer).detach() for name, buffer in model.named_buffers()}
        for name in own:  # torch counts the batches of frozen layers too
            statistic = name.replace("num_batches_tracked", "running_mean")
            if statistic != name and not context.has_observed(model.get_buffer(statistic)):
                after[name] = given[name]
    return outputs, given if frozen else after
