"""Relation networks (Sung et al. 2018, arXiv 1711.06025): a learned comparison of a query with each class."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from metabridge.adaptation.task_maps import TaskMap
from metabridge.configs import RelationConfig
from metabridge.networks.parts import part_of
from torch_backend.algorithms.algorithm import Loss
from torch_backend.algorithms.embedding import EmbeddingAlgorithm
from torch_backend.apply import Model, as_model, run_model
from torch_backend.functional import mean_squared_error
from torch_backend.functional.prototypes import indicators
from torch_backend.tasks import Batch

__all__ = ["RelationNetwork"]


class RelationNetwork(EmbeddingAlgorithm):
    """Classify a query by relation scores between its embedding and those of the classes.

    With embedding f, the support examples S_c of class c and a relation module g:

        r_c(x̂) = sigmoid(g([Σ f(x) over S_c, f(x̂)])),  meta-loss = mean of (r_c(x̂) − 1[y = c])²

    Sung, Yang, Zhang, Xiang, Torr, Hospedales 2018 (arXiv 1711.06025), equations 1 and 2. The paper concatenates
    feature maps by channels, and its g has two blocks of convolution, batch normalisation and pooling before two
    linear layers. Here embeddings are vectors, such as flattened feature maps, and the record's g is the two linear
    layers alone.

    `params` is `{"network": …, "relation": …}`.

    Args:
        model: see `EmbeddingAlgorithm`.
        relation: g, a module or a function `(params, inputs)`: pairs `(p, 2D)`, class first, → `(p, 1)`.
        options: the other arguments of `EmbeddingAlgorithm`.
    """

    def __init__(self, model: Model, relation: Model, **options: Any) -> None:
        super().__init__(model, **options)
        self.relation = as_model(relation)

    @classmethod
    def from_config(
        cls,
        config: RelationConfig,
        modules: Mapping[str, Model],
        loss: Loss,
        ways: int | None,
        task_map: TaskMap = "auto",
    ) -> "RelationNetwork":
        """The algorithm of a record."""
        del config, loss
        return cls(modules["network"], modules["relation"], ways=ways or 0, task_map=task_map)

    def head(self, params: Any, embeddings: Tensor, targets: Tensor, queries: Tensor) -> Tensor:
        """Scores `(m, N)` between 0 and 1."""
        sums = indicators(targets, self.ways).to(embeddings.dtype).T @ embeddings
        shape = (len(queries), self.ways, queries.shape[-1])
        pairs = torch.cat([sums.expand(shape), queries.unsqueeze(1).expand(shape)], -1)
        scores, _ = run_model(self.relation, part_of(params, "relation"), pairs.flatten(0, 1))
        return scores.reshape(shape[:2]).sigmoid()

    def task_loss(self, params: Any, task: Batch) -> Tensor:
        """The mean squared error of the scores on one task's query set."""
        scores = self.predict_task(params, task)
        wanted = indicators(task["test"][1], self.ways).to(scores.dtype)
        return mean_squared_error(scores, wanted)
