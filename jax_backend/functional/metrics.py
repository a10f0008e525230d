"""Metrics of predictions."""

import jax

__all__ = ["accuracy"]


def accuracy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Share of examples whose largest of `outputs` `(n, N)` is at `targets` `(n,)`; ties go to the lowest class."""
    return (outputs.argmax(-1) == targets).astype(outputs.dtype).mean()
