"""`EmbeddingAlgorithm`: what the algorithms have in common that classify embeddings by those of the support set."""

from collections.abc import Mapping
from typing import Any, Self

import jax

from jax_backend.algorithms.algorithm import Algorithm, Loss
from jax_backend.apply import Model
from jax_backend.functional import cross_entropy
from jax_backend.tasks import Batch
from metabridge.adaptation.task_maps import TaskMap
from metabridge.checks import check_count
from metabridge.networks.parts import NETWORK, part_of

__all__ = ["EmbeddingAlgorithm"]


class EmbeddingAlgorithm(Algorithm):
    """Embed the support and the query set of a task, then predict from the embeddings alone.

    A subclass says how: `head`. Its meta-loss is the cross-entropy of the outputs. The support and the query set pass
    through the network one after the other, each with its own batch statistics.

    Args:
        model: the embedding: a MetaModule, an ordinary NNX module, or a pure function `(params, inputs)` → `(n, D)`.
        ways: classes of a task, N.
        task_map: see `Algorithm`.

    Raises:
        TypeError: if `model` is neither a module nor a function.
        ValueError: if `ways` is below 2, or for an unknown `task_map`.
    """

    choices: tuple[str, ...] = ()
    """Fields of the record that are arguments of the constructor."""

    def __init__(self, model: Model, *, ways: int, task_map: TaskMap = "auto") -> None:
        super().__init__(model, task_map)
        check_count(ways, "ways", least=2)
        self.ways = ways

    @classmethod
    def from_config(
        cls,
        config: Any,
        modules: Mapping[str, Model],
        loss: Loss,
        ways: int | None,
        task_map: TaskMap = "auto",
    ) -> Self:
        """The algorithm of a record."""
        del loss
        chosen = {name: getattr(config, name) for name in cls.choices}
        return cls(modules["network"], ways=ways or 0, task_map=task_map, **chosen)

    def head(self, params: Any, embeddings: jax.Array, targets: jax.Array, queries: jax.Array) -> jax.Array:
        """Outputs `(m, N)` of embedded queries `(m, D)` from the embedded support set `(n, D)` and its targets."""
        raise NotImplementedError(f"{type(self).__name__} must define head(params, embeddings, targets, queries).")

    def network_params(self, params: Any) -> Any:
        """The network's part of the meta-parameters."""
        return part_of(params, NETWORK)

    def predict_task(self, params: Any, task: Batch, steps: int | None = None) -> jax.Array:
        """Outputs `(m, N)` of one task's query set."""
        del steps  # there are none to take
        network = self.network_params(params)
        inputs, targets = task["train"]
        return self.head(params, self.apply(network, inputs), targets, self.apply(network, task["test"][0]))

    def task_loss(self, params: Any, task: Batch) -> jax.Array:
        """The cross-entropy on one task's query set."""
        return cross_entropy(self.predict_task(params, task), task["test"][1])
