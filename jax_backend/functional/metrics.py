"""Metrics of predictions."""

import jax
import jax.numpy as jnp

from jax_backend.functional.losses import check_arrays
from metabridge.checks import check_class_targets, check_integer

__all__ = ["accuracy"]


def accuracy(outputs: jax.Array, targets: jax.Array, ignore_index: int = -100) -> jax.Array:
    """Share of examples whose largest output is at their target; ties go to the lowest class.

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
    right = (outputs.argmax(-1).astype(int) == targets) & counts
    # Half precision cannot count the pixels of a mask.
    wide = jnp.float64 if outputs.dtype == jnp.float64 else jnp.float32
    return (right.sum().astype(wide) / counts.sum().astype(wide)).astype(outputs.dtype)
