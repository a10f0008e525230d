"""MetaOptNet (Lee, Maji, Ravichandran, Soatto 2019, arXiv 1904.03758): a support vector machine on learned features."""

from typing import Any

from torch import Tensor

from metabridge.checks import check_count, check_positive
from metabridge.networks.parts import part_of
from torch_backend.algorithms.embedding import EmbeddingAlgorithm
from torch_backend.apply import Model
from torch_backend.functional import support_vector_machine

__all__ = ["MetaOptNet"]


class MetaOptNet(EmbeddingAlgorithm):
    """Fit a multi-class support vector machine to the embedded support set, and differentiate through its optimum.

    With embedding f and the weights W of Crammer and Singer's machine:

        logits(x̂) = γ f(x̂) Wᵀ,  meta-loss = cross-entropy

    Lee, Maji, Ravichandran, Soatto 2019 (arXiv 1904.03758), equations 6 to 9. The scale γ is learned. The authors' code
    solves the dual problem by an interior-point method; see `support_vector_machine` for the one here. They train with
    more shots than they test with, and smooth the labels; both are the caller's choice.

    `params` is `{"network": …, "head": {"scale": γ}}`.

    Args:
        model: see `EmbeddingAlgorithm`.
        penalty: C, of a violated margin.
        iterations: see `support_vector_machine`.
        options: the other arguments of `EmbeddingAlgorithm`.
    """

    choices = ("penalty", "iterations")

    def __init__(self, model: Model, *, penalty: float = 0.1, iterations: int = 200, **options: Any) -> None:
        super().__init__(model, **options)
        self.penalty = check_positive(penalty, "penalty")
        self.iterations = check_count(iterations, "iterations")

    def head(self, params: Any, embeddings: Tensor, targets: Tensor, queries: Tensor) -> Tensor:
        """Logits `(m, N)`."""
        weight = support_vector_machine(embeddings, targets, self.ways, self.penalty, self.iterations)
        return part_of(params, "head")["scale"] * (queries @ weight.T)
