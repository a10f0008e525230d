"""LR-D2 (Bertinetto, Henriques, Torr, Vedaldi 2019, arXiv 1805.08136): logistic regression on learned features."""

from typing import Any

import jax
import jax.numpy as jnp

from jax_backend.algorithms.embedding import EmbeddingAlgorithm
from jax_backend.apply import Model
from jax_backend.functional import logistic_regression
from metabridge.checks import check_count
from metabridge.networks.parts import part_of

__all__ = ["LRD2"]


class LRD2(EmbeddingAlgorithm):
    """Fit logistic regressions to the embedded support set by Newton steps, and differentiate through them.

    With embedding f and the weights W of one logistic regression for every class against the others:

        logits(x̂) = α f(x̂) Wᵀ,  meta-loss = cross-entropy

    Bertinetto, Henriques, Torr, Vedaldi 2019 (arXiv 1805.08136), equations 7 to 9, for two classes; of more this takes
    each against the others. The regularisation λ, as its logarithm, and the scale α are learned.

    `params` is `{"network": …, "head": {"scale": α, "log_lambda": log λ}}`.

    Args:
        model: see `EmbeddingAlgorithm`.
        newton_steps: of the solver.
        options: the other arguments of `EmbeddingAlgorithm`.
    """

    choices = ("newton_steps",)

    def __init__(self, model: Model, *, newton_steps: int = 5, **options: Any) -> None:
        super().__init__(model, **options)
        check_count(newton_steps, "newton_steps")
        self.newton_steps = newton_steps

    def head(self, params: Any, embeddings: jax.Array, targets: jax.Array, queries: jax.Array) -> jax.Array:
        """Logits `(m, N)`."""
        head = part_of(params, "head")
        penalty = jnp.exp(head["log_lambda"])
        weight = logistic_regression(embeddings, targets, penalty, self.ways, self.newton_steps)
        return head["scale"] * (queries @ weight.T)
