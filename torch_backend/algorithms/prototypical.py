"""Prototypical networks (Snell, Swersky, Zemel 2017, arXiv 1703.05175): the nearest class mean in a learned space."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from metabridge.adaptation.task_maps import TaskMap
from metabridge.checks import check_count
from metabridge.configs import PrototypicalConfig
from torch_backend.algorithms.algorithm import Algorithm, Loss
from torch_backend.apply import Model
from torch_backend.functional import cross_entropy, get_prototypes, squared_distances
from torch_backend.tasks import Batch, Randomness

__all__ = ["Prototypical"]


class Prototypical(Algorithm):
    """Classify a query by its distances to the class means of the embedded support set.

    With embedding f and the support examples S_c of class c:

        prototype_c = mean of f(x) over S_c,  logit_c(x) = −‖f(x) − prototype_c‖²,  meta-loss = cross-entropy

    Snell, Swersky, Zemel 2017 (arXiv 1703.05175), equations 1 and 2 with squared Euclidean distance. The support and
    the query set pass through the network one after the other, each with its own batch statistics; the authors' code
    passes them together.

    Args:
        model: the embedding: a MetaModule, an ordinary module, or a pure function `(params, inputs)` → `(n, D)`.
        ways: classes of a task, N.
        task_map: see `Algorithm`.
        randomness: see `Algorithm`.

    Raises:
        TypeError: if `model` is neither a module nor a function.
        ValueError: if `ways` is below 2, or for an unknown `task_map`.
    """

    def __init__(
        self, model: Model, *, ways: int, task_map: TaskMap = "auto", randomness: Randomness = "error"
    ) -> None:
        super().__init__(model, task_map, randomness)
        check_count(ways, "ways", least=2)
        self.ways = ways

    @classmethod
    def from_config(
        cls,
        config: PrototypicalConfig,
        modules: Mapping[str, Model],
        loss: Loss,
        ways: int | None,
        task_map: TaskMap = "auto",
    ) -> "Prototypical":
        """The algorithm of a record."""
        del config, loss
        return cls(modules["network"], ways=ways or 0, task_map=task_map)

    def predict_task(self, params: Any, task: Batch, steps: int | None = None) -> Tensor:
        """Logits `(n, N)` of one task's query set."""
        del steps  # there are none to take
        inputs, targets = task["train"]
        prototypes = get_prototypes(self.apply(params, inputs), targets, self.ways)
        return -squared_distances(self.apply(params, task["test"][0]), prototypes)

    def task_loss(self, params: Any, task: Batch) -> Tensor:
        """The cross-entropy on one task's query set."""
        return cross_entropy(self.predict_task(params, task), task["test"][1])
