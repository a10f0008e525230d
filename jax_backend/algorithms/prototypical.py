"""Prototypical networks (Snell, Swersky, Zemel 2017, arXiv 1703.05175): the nearest class mean in a learned space."""

from typing import Any

import jax

from jax_backend.algorithms.embedding import EmbeddingAlgorithm
from jax_backend.functional import get_prototypes, squared_distances

__all__ = ["Prototypical"]


class Prototypical(EmbeddingAlgorithm):
    """Classify a query by its distances to the class means of the embedded support set.

    With embedding f and the support examples S_c of class c:

        prototype_c = mean of f(x) over S_c,  logit_c(x) = −‖f(x) − prototype_c‖²,  meta-loss = cross-entropy

    Snell, Swersky, Zemel 2017 (arXiv 1703.05175), equations 1 and 2 with squared Euclidean distance. The authors' code
    passes the support and the query set through the network together.

    `params` is the network's tree. Arguments are those of `EmbeddingAlgorithm`.
    """

    def network_params(self, params: Any) -> Any:
        """All of them."""
        return params

    def head(self, params: Any, embeddings: jax.Array, targets: jax.Array, queries: jax.Array) -> jax.Array:
        """Logits `(m, N)`."""
        del params
        return -squared_distances(queries, get_prototypes(embeddings, targets, self.ways))
