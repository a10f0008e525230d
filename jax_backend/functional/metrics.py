"""Metrics of predictions."""

import jax
import jax.numpy as jnp

__all__ = ["accuracy"]


def accuracy(outputs: jax.Array, targets: jax.Array, ignore_index: int = -100) -> jax.Array:
    """Share of examples whose largest output is at their target; ties go to the lowest class.

    Args:
        outputs: `(n, N)`; of every pixel `(n, H, W, N)`.
        targets: `(n,)` integers in [0, N); of every pixel `(n, H, W)`.
        ignore_index: a target that does not count, such as the 255 of masks. NaN if none counts.
    """
    counts = targets != ignore_index
    right = (outputs.argmax(-1) == targets) & counts
    # Half precision cannot count the pixels of a mask.
    wide = jnp.float64 if outputs.dtype == jnp.float64 else jnp.float32
    return (right.sum().astype(wide) / counts.sum().astype(wide)).astype(outputs.dtype)
