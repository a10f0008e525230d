"""R2D2 (Bertinetto, Henriques, Torr, Vedaldi 2019, arXiv 1805.08136): ridge regression on learned features."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jax_backend.algorithms.algorithm import Algorithm, Loss
from jax_backend.apply import Model
from jax_backend.functional import ridge_regression
from jax_backend.tasks import Batch
from metabridge.adaptation.task_maps import TaskMap
from metabridge.checks import check_count
from metabridge.configs import R2D2Config
from metabridge.networks.parts import part_of

__all__ = ["R2D2"]


class R2D2(Algorithm):
    """Fit a ridge regression to the embedded support set, and differentiate through its closed form.

    With embedding f, support embeddings X and targets Y, one-hot for classes:

        W = argmin ‖X W − Y‖² + λ ‖W‖² = Xᵀ (X Xᵀ + λ I)⁻¹ Y,  outputs(x̂) = α f(x̂) W + β,  meta-loss = loss

    Bertinetto, Henriques, Torr, Vedaldi 2019 (arXiv 1805.08136), equations 4 to 6. λ, α and β are learned, λ as its
    logarithm. β is one number for all outputs. No softmax sees it, so that only a regression has it. Where λ and
    α start is the record's choice.

    `params` is `{"network": …, "head": {"scale": α, "log_lambda": log λ}}`, for a regression with `"bias": β`.

    Args:
        model: the embedding: a MetaModule, an ordinary NNX module, or a pure function `(params, inputs)` → `(n, D)`.
        loss: `(outputs, targets)` → scalar, the meta-loss of one task.
        ways: classes of a task, N; `None` for a regression.
        task_map: see `Algorithm`.

    Raises:
        TypeError: if `model` is neither a module nor a function.
        ValueError: if `ways` is below 2, or for an unknown `task_map`.
    """

    def __init__(self, model: Model, loss: Loss, *, ways: int | None, task_map: TaskMap = "auto") -> None:
        super().__init__(model, task_map)
        if ways is not None:
            check_count(ways, "ways", least=2)
        self.loss_function = loss
        self.ways = ways

    @classmethod
    def from_config(
        cls,
        config: R2D2Config,
        modules: Mapping[str, Model],
        loss: Loss,
        ways: int | None,
        task_map: TaskMap = "auto",
    ) -> "R2D2":
        """The algorithm of a record."""
        del config
        return cls(modules["network"], loss, ways=ways, task_map=task_map)

    def predict_task(self, params: Any, task: Batch, steps: int | None = None) -> jax.Array:
        """Outputs `(m, N)` of one task's query set."""
        del steps  # there are none to take
        head, (inputs, targets) = part_of(params, "head"), task["train"]
        embeddings, queries = (self.apply(params["network"], each) for each in (inputs, task["test"][0]))
        penalty = jnp.exp(head["log_lambda"])
        weight, _ = ridge_regression(embeddings, targets, penalty, self.ways, scale=False, bias=False)
        outputs = head["scale"] * (queries @ weight.T)
        return outputs if self.ways is not None else outputs + head["bias"]

    def task_loss(self, params: Any, task: Batch) -> jax.Array:
        """The loss on one task's query set."""
        return self.loss_function(self.predict_task(params, task), task["test"][1])
