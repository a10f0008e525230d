"""Prototypes of classes and distances to them."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_backend.functional.losses import check_arrays, negative_log_likelihood
from jax_backend.functional.precision import full_precision
from metabridge.checks import check_count

__all__ = ["get_num_samples", "get_prototypes", "indicators", "prototypical_loss", "squared_distances"]


def indicators(targets: jax.Array, num_classes: int) -> jax.Array:
    """`(…, n, N)` booleans, whether an example belongs to a class, of targets `(…, n)`.

    A number outside of [0, N) belongs to no class.
    """
    return targets[..., None] == jnp.arange(num_classes)


def get_num_samples(targets: jax.Array, num_classes: int, dtype: Any = None) -> jax.Array:
    """How many examples each class has: `(…, N)`.

    Args:
        targets: `(…, n)` integers in [0, N); any other number belongs to no class.
        num_classes: N.
        dtype: of the result; `None` for JAX's integer, int32 or in 64-bit mode int64.
    """
    return indicators(targets, num_classes).sum(-2).astype(int if dtype is None else dtype)


@full_precision
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
    members = indicators(targets, num_classes).astype(embeddings.dtype)
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


@full_precision
def prototypical_loss(
    prototypes: jax.Array,
    embeddings: jax.Array,
    targets: jax.Array,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> jax.Array:
    """Cross-entropy of the softmax over negative squared distances. Snell et al. 2017, equation 2.

    Args:
        prototypes: `(…, N, D)`.
        embeddings: `(…, n, D)`.
        targets: `(…, n)` integers in [0, N).
        ignore_index: a target that does not count.
        reduction: see `negative_log_likelihood`.
    """
    log_probas = jax.nn.log_softmax(-squared_distances(embeddings, prototypes))
    return negative_log_likelihood(log_probas.swapaxes(-2, -1), targets, ignore_index, reduction)
