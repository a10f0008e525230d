"""Prototypes of classes and distances to them."""

import jax
import jax.numpy as jnp

from jax_backend.functional.losses import check_arrays
from metabridge.checks import check_count

__all__ = ["get_prototypes", "squared_distances"]


def get_prototypes(embeddings: jax.Array, targets: jax.Array, num_classes: int) -> jax.Array:
    """Mean embedding of every class: `(…, N, D)`. Snell et al. 2017, equation 1.

    Args:
        embeddings: `(…, n, D)`.
        targets: `(…, n)` integers in [0, N); any other number belongs to no class.
        num_classes: N.

    Returns:
        The prototypes; that of a class without examples is 0.
    """
    check_arrays(embeddings=embeddings, targets=targets)
    check_count(num_classes, "num_classes")
    members = (targets[..., None] == jnp.arange(num_classes)).astype(embeddings.dtype)
    counts = jnp.maximum(members.sum(-2), 1)
    return members.swapaxes(-2, -1) @ embeddings / counts[..., None]


def squared_distances(points: jax.Array, centres: jax.Array) -> jax.Array:
    """Squared Euclidean distances `(…, n, N)` of points `(…, n, D)` to centres `(…, N, D)`.

    Raises:
        ValueError: if points and centres have different numbers of features.
    """
    check_arrays(points=points, centres=centres)
    if points.shape[-1] != centres.shape[-1]:
        raise ValueError(f"`centres` must have {points.shape[-1]} features like `points`, got {centres.shape[-1]}.")
    return ((points[..., :, None, :] - centres[..., None, :, :]) ** 2).sum(-1)
