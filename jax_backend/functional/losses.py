"""Losses, averaged over examples."""

import jax
import jax.numpy as jnp
import numpy as np

from metabridge.checks import (
    check_choice,
    check_class_targets,
    check_instance,
    check_integer,
    check_same_shape,
)

__all__ = ["cross_entropy", "mean_squared_error", "negative_log_likelihood"]


def cross_entropy(outputs: jax.Array, targets: jax.Array, ignore_index: int = -100) -> jax.Array:
    """Mean negative log-likelihood of `targets` under the softmax of `outputs`.

    Args:
        outputs: `(n, N)`; of every pixel `(n, H, W, N)`.
        targets: `(n,)` integers in [0, N); of every pixel `(n, H, W)`.
        ignore_index: a target that does not count, such as the 255 of masks. NaN if none counts.

    Raises:
        ValueError: if the targets are no integers, or of another shape.
    """
    check_arrays(outputs=outputs, targets=targets)
    check_integer(ignore_index, "ignore_index")
    check_class_targets(targets.shape, outputs.shape[:-1], targets.dtype, jnp.issubdtype(targets.dtype, jnp.integer))
    targets = targets.astype(int)
    counts = targets != ignore_index
    safe = jnp.where(counts, targets, 0)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(outputs), safe[..., None], axis=-1)[..., 0]
    # Half precision cannot count the pixels of a mask.
    wide = jnp.float64 if outputs.dtype == jnp.float64 else jnp.float32
    total = jnp.where(counts, chosen, 0).astype(wide).sum()
    return (-total / counts.sum().astype(wide)).astype(outputs.dtype)


def mean_squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean of `(outputs − targets)²` over all entries; both `(n, outputs)`.

    Raises:
        ValueError: if the shapes differ: `(n, 1)` and `(n,)` would broadcast to `(n, n)`.
    """
    check_arrays(outputs=outputs, targets=targets)
    check_same_shape(targets.shape, outputs.shape)
    return ((outputs - targets) ** 2).mean()


def check_arrays(**arrays: object) -> None:
    """Raise `TypeError` unless these arguments are arrays."""
    for argument, array in arrays.items():
        check_instance(array, (jax.Array, np.ndarray), argument, "convert it with jnp.asarray")


def negative_log_likelihood(
    log_probas: jax.Array, targets: jax.Array, ignore_index: int = -100, reduction: str = "mean"
) -> jax.Array:
    """Negative log-likelihood of `targets`, with the axis of classes before that of examples.

    Args:
        log_probas: `(…, N, n)`.
        targets: `(…, n)` integers in [0, N).
        ignore_index: a target that does not count.
        reduction: `"mean"` over the examples that count, of all tasks; `"sum"`; or `"none"`, `(…, n)`.

    Raises:
        ValueError: if the targets are no integers, or of another shape; for an unknown reduction.
    """
    check_choice(reduction, "reduction", ("mean", "sum", "none"))
    expected = log_probas.shape[:-2] + log_probas.shape[-1:]
    check_class_targets(targets.shape, expected, targets.dtype, jnp.issubdtype(targets.dtype, jnp.integer))
    classes = targets.astype(int)
    counts = classes != ignore_index
    chosen = jnp.take_along_axis(log_probas, jnp.where(counts, classes, 0)[..., None, :], axis=-2)[..., 0, :]
    losses = jnp.where(counts, -chosen, 0)
    if reduction == "none":
        return losses
    return losses.sum() / counts.sum().astype(losses.dtype) if reduction == "mean" else losses.sum()
