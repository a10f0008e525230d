"""MetaOptNet (Lee, Maji, Ravichandran, Soatto 2019, arXiv 1904.03758): a support vector machine on learned features."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from metabridge.adaptation.task_maps import TaskMap
from metabridge.checks import check_count, check_positive
from metabridge.configs import MetaOptNetConfig
from torch_backend.algorithms.algorithm import Loss
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

    def __init__(self, model: Model, *, penalty: float = 0.1, iterations: int = 200, **options: Any) -> None:
        super().__init__(model, **options)
        self.penalty = check_positive(penalty, "penalty")
        self.iterations = check_count(iterations, "iterations")

    @classmethod
    def from_config(
        cls,
        config: MetaOptNetConfig,
        modules: Mapping[str, Model],
        loss: Loss,
        ways: int | None,
        task_map: TaskMap = "auto",
    ) -> "MetaOptNet":
        """The algorithm of a record."""
        del loss
        return cls(
            modules["network"],
            penalty=config.penalty,
            iterations=config.iterations,
            ways=ways or 0,
            task_map=task_map,
        )

    def head(self, params: Any, embeddings: Tensor, targets: Tensor, queries: Tensor) -> Tensor:
        """Logits `(m, N)`."""
        weight = support_vector_machine(embeddings, targets, self.ways, self.penalty, self.iterations)
        return params["head"]["scale"] * (queries @ weight.T)
