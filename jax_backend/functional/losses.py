"""Losses, averaged over examples."""

import jax
import jax.numpy as jnp

__all__ = ["cross_entropy", "mean_squared_error"]


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean negative log-likelihood of `targets` `(n,)` under the softmax of `outputs` `(n, N)`."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(outputs), targets[:, None], axis=-1)
    return -chosen.mean()


def mean_squared_error(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean of `(outputs − targets)²` over all entries; both `(n, outputs)`.

    Raises:
        ValueError: if the shapes differ: `(n, 1)` and `(n,)` would broadcast to `(n, n)`.
    """
    if outputs.shape != targets.shape:
        raise ValueError(f"`targets` must have the shape of `outputs`, {outputs.shape}, got {targets.shape}.")
    return ((outputs - targets) ** 2).mean()
