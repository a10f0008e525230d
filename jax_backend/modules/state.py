"""`call_with_buffers`: running statistics as values that go in and come out, instead of being changed in place."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from jax_backend.modules.module import MetaModule, assign, buffer_values
from metabridge.batchnorm_policies import BatchNormPolicy, check_policy
from metabridge.subdicts import check_names, check_shape

__all__ = ["call_with_buffers", "choose_statistics"]


def call_with_buffers(
    model: MetaModule,
    *inputs: Any,
    params: Mapping[str, jax.Array] | None = None,
    buffers: Mapping[str, jax.Array] | None = None,
    batch_norm: BatchNormPolicy = "batch",
    **options: Any,
) -> tuple[Any, dict[str, jax.Array]]:
    """`model(*inputs, params=params, **options)` as a pure function of its buffers too.

    Nothing that is stored in the model changes. In training mode the policy says which statistics normalise:
    `"batch"` those of the batch at hand, and the returned running statistics have seen it; `"frozen"` the running
    ones of `buffers`, which are returned as they are. In evaluation mode they are used, and returned, in any case.

    Args:
        model: a MetaModule, in training or evaluation mode.
        inputs: what its call takes.
        params: name → array for all its parameters; `None` for the stored ones.
        buffers: name → array for every name of `model.meta_named_buffers()`; `None` for the stored ones.
        batch_norm: `"batch"` or `"frozen"`.
        options: further arguments of the call.

    Returns:
        The outputs, and name → array of the buffers after the call, without gradients.

    Raises:
        ValueError: for another policy, or if `params` or `buffers` has a missing, unknown or mis-shaped entry.
    """
    check_policy(batch_norm, ("batch", "frozen"))
    own = dict(model.meta_named_buffers())
    given = own if buffers is None else dict(buffers)
    check_names(given, own, type(model).__name__, "buffers")
    for name, buffer in own.items():
        check_shape(name, given[name].shape, buffer.shape, type(model).__name__, "buffers")
    copy = nnx.clone(model)
    assign(copy, given)
    choose_statistics(copy, batch_norm)
    outputs = copy(*inputs, params=params, **options)
    if batch_norm == "frozen":
        return outputs, given
    after = {name: jax.lax.stop_gradient(value) for name, value in buffer_values(copy).items()}
    return outputs, {name: after[name] for name in own}


def choose_statistics(model: nnx.Module, batch_norm: BatchNormPolicy) -> None:
    """Make the normalisation layers of a copied model follow a policy, with `params` or without."""
    for _, module in nnx.iter_modules(model):
        if hasattr(module, "collects_statistics"):
            module.collects_statistics = True
        if hasattr(module, "use_running_average") and batch_norm == "frozen":
            module.use_running_average = True
