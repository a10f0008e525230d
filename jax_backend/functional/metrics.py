"""Metrics of predictions."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jax_backend.functional.losses import check_arrays
from jax_backend.functional.matching import pairwise_cosine_similarity
from jax_backend.functional.precision import full_precision
from jax_backend.functional.prototypes import get_prototypes, indicators
from metabridge.checks import check_class_targets, check_integer

__all__ = ["accuracy", "hardness_metric"]


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


def hardness_metric(
    batch: Mapping[str, tuple[jax.Array, jax.Array]], num_classes: int, backbone: Callable[[Any], jax.Array]
) -> jax.Array:
    """How hard episodes are for given features, the queries' mean log-odds of being wrong: `(B,)`.

    Dhillon et al. 2020 (arXiv 1909.02729), section 4.4: `log((1 − p) / p)` of the probability p of a query's class, by
    the softmax of its cosine similarities to the mean features of the classes. Higher is harder.

    Args:
        batch: B tasks.
        num_classes: N, at least 2.
        backbone: images or vectors `(examples, …)` → features `(examples, D)`, such as a network trained on ImageNet;
            the paper's is a ResNet-152.
    """

    def features(inputs: jax.Array) -> jax.Array:
        return backbone(inputs.reshape(-1, *inputs.shape[2:])).reshape(*inputs.shape[:2], -1)

    (inputs, targets), (test_inputs, test_targets) = batch["train"], batch["test"]
    return _log_odds(features(inputs), targets, features(test_inputs), test_targets, num_classes)


@full_precision
def _log_odds(
    embeddings: jax.Array, targets: jax.Array, test_embeddings: jax.Array, test_targets: jax.Array, num_classes: int
) -> jax.Array:
    centres = get_prototypes(embeddings, targets, num_classes)
    similarities = pairwise_cosine_similarity(test_embeddings, centres)
    own = indicators(test_targets, num_classes)
    return (
        jax.nn.logsumexp(jnp.where(own, -jnp.inf, similarities), axis=-1) - jnp.where(own, similarities, 0).sum(-1)
    ).mean(-1)
