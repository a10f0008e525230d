"""Matching networks (Vinyals et al. 2016, arXiv 1606.04080): attention over the support set by cosine similarity."""

from typing import Any

import jax

from jax_backend.algorithms.embedding import EmbeddingAlgorithm
from jax_backend.apply import Model
from jax_backend.functional import full_context_embeddings, matching_log_probas, negative_log_likelihood
from jax_backend.tasks import Batch
from metabridge.checks import check_count

__all__ = ["Matching"]


class Matching(EmbeddingAlgorithm):
    """Classify a query by the classes of the support examples to which it attends.

    With embeddings g of the support set and f of the queries:

        p(c | x̂) = Σ_i softmax_i(cos(f(x̂), g(x_i))) 1[y_i = c],  meta-loss = mean of −log p(y | x̂)

    Vinyals, Blundell, Lillicrap, Kavukcuoglu, Wierstra 2016 (arXiv 1606.04080), equation 1 and section 2.1. f and g are
    one network, as in the paper's experiments. With full context, LSTMs make both depend on the whole support set, in
    the order in which it is given: see `full_context_embeddings`. Outputs are logarithms of probabilities.

    `params` is the network's tree; with full context `{"network": …, "context": …}`.

    Args:
        model: see `EmbeddingAlgorithm`.
        full_context: whether to use full-context embeddings.
        processing_steps: how often a query attends to the support set then; the paper's K.
        options: the other arguments of `EmbeddingAlgorithm`.
    """

    choices = ("full_context", "processing_steps")

    def __init__(self, model: Model, *, full_context: bool = False, processing_steps: int = 5, **options: Any) -> None:
        super().__init__(model, **options)
        check_count(processing_steps, "processing_steps")
        self.full_context = full_context
        self.processing_steps = processing_steps

    def network_params(self, params: Any) -> Any:
        """The network's part of the meta-parameters."""
        return super().network_params(params) if self.full_context else params

    def head(self, params: Any, embeddings: jax.Array, targets: jax.Array, queries: jax.Array) -> jax.Array:
        """Logarithms `(m, N)` of the probabilities."""
        if self.full_context:
            embeddings, queries = full_context_embeddings(embeddings, queries, params["context"], self.processing_steps)
        return matching_log_probas(embeddings, targets, queries, self.ways).swapaxes(-2, -1)

    def task_loss(self, params: Any, task: Batch) -> jax.Array:
        """The negative log-likelihood on one task's query set."""
        return negative_log_likelihood(self.predict_task(params, task).swapaxes(-2, -1), task["test"][1])
