"""`call_with_buffers`: running statistics as values that go in and come out, instead of being changed in place."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
from flax import nnx

from jax_backend.modules.module import MetaModule, assign, buffer_values, given_names
from metabridge.adaptation.batchnorm_policies import BatchNormPolicy, check_policy
from metabridge.adaptation.names import check_shape

__all__ = ["call_with_buffers", "choose_statistics"]


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
        ValueError: for another policy, or if `params` or `buffers` has a missing, unknown or mis-shaped entry.
    """
    if batch_norm is not None:
        check_policy(batch_norm, ("batch", "frozen"))
    own = dict(model.meta_named_buffers())
    given = own if buffers is None else dict(buffers)
    names = given_names(model, given, nnx.BatchStat, "buffers")
    for name, value in buffer_values(model).items():
        if name in given:
            check_shape(name, given[name].shape, value.shape, type(model).__name__, "buffers")
    copy = nnx.clone(model)
    assign(copy, given)
    choose_statistics(copy, batch_norm)
    with unmoved_statistics(copy, batch_norm == "frozen"):
        outputs = copy(*inputs, params=params, **options)
    if batch_norm == "frozen":
        return outputs, given
    after = {name: jax.lax.stop_gradient(value) for name, value in buffer_values(copy).items()}
    return outputs, {name: after[name] for name in names.values()}


@contextmanager
def unmoved_statistics(model: nnx.Module, frozen: bool) -> Iterator[None]:
    """Raise `ValueError` if a call under the policy `"frozen"` has moved running statistics all the same."""
    before = buffer_values(model) if frozen else {}
    yield
    after = buffer_values(model) if frozen else {}
    moved = [name for name, value in before.items() if after[name] is not value]
    if moved:
        raise ValueError(
            f'`batch_norm` is "frozen" but the call has moved {moved[0]!r}: the module itself tells its batch '
            "normalisation to use the batch; leave `use_running_average` out of its call."
        )


def choose_statistics(model: nnx.Module, batch_norm: BatchNormPolicy | None) -> None:
    """Make the normalisation layers of a copied model follow a policy, with `params` or without; `None`: their own."""
    for _, module in nnx.iter_modules(model):
        if hasattr(module, "collects_statistics"):
            module.collects_statistics = True
        if hasattr(module, "meta_is_copy"):
            module.meta_is_copy = True
        if hasattr(module, "use_running_average") and batch_norm == "frozen":
            module.use_running_average = True
        if hasattr(module, "meta_frozen") and batch_norm == "batch":
            module.meta_frozen = False
