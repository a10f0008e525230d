"""`call_with_buffers`: running statistics as values that go in and come out, instead of being changed in place."""

from collections.abc import Mapping
from typing import Any

import jax

from jax_backend.modules.module import MetaModule
from jax_backend.modules.placement import Statistics, placed
from jax_backend.modules.variables import buffer_values
from metabridge.adaptation.batchnorm_policies import BatchNormPolicy, check_policy
from metabridge.checks import check_mapping
from metabridge.networks.calls import check_meta_module

__all__ = ["call_with_buffers"]


def call_with_buffers(
    model: MetaModule,
    *inputs: Any,
    params: Mapping[str, jax.Array] | None = None,
    buffers: Mapping[str, jax.Array] | None = None,
    batch_norm: BatchNormPolicy | None = None,
    **options: Any,
) -> tuple[Any, dict[str, jax.Array]]:
    """`model(*inputs, params=params, **options)` as a pure function of its buffers too.

    Nothing that is stored in the model changes, the state of its random numbers included: dropout draws the same mask
    at every call, unless you reseed the model in between. In training mode the policy says which statistics normalise:
    `"batch"` those of the batch at hand, and the returned running statistics have seen it; `"frozen"` the running
    ones of `buffers`, which are returned as they are. In evaluation mode they are used, and returned, in any case.

    Args:
        model: a MetaModule, in training or evaluation mode.
        inputs: what its call takes.
        params: name → array for all its parameters; `None` for the stored ones.
        buffers: name → array for every name of `model.meta_named_buffers()`; `None` for the stored ones.
        batch_norm: `"batch"` or `"frozen"`; `None` for the model's own policy, see `as_meta_module`.
        options: further arguments of the call.

    Returns:
        The outputs, and name → array of the buffers after the call, without gradients.

    Raises:
        ValueError: for another policy, or `buffers` that do not fit the model as `params` must, see `MetaModule`.
    """
    if batch_norm is not None:
        check_policy(batch_norm, ("batch", "frozen"))
    check_meta_module(model, MetaModule, "jax_backend")
    own = dict(model.meta_named_buffers())
    if buffers is not None:
        check_mapping(buffers, "buffers", "pass name → array, or None for the model's own")
    given = own if buffers is None else dict(buffers)
    statistics = Statistics(observing=True, follows_model=batch_norm is None)
    with placed(model, None, given, statistics, frozen=batch_norm == "frozen"):
        outputs = model(*inputs, params=params, **options)
        after = {name: jax.lax.stop_gradient(value) for name, value in buffer_values(model).items()}
    return outputs, given if batch_norm == "frozen" else {name: after[name] for name in given}
