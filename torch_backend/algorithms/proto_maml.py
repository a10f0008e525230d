"""Proto-MAML (Triantafillou et al. 2020, arXiv 1903.03096): MAML whose head starts from the prototypes."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from metabridge.adaptation.task_maps import TaskMap
from metabridge.checks import check_count
from metabridge.configs import ProtoMAMLConfig
from metabridge.networks.parts import part_of
from torch_backend.adjoints import FirstOrder, Unrolled
from torch_backend.algorithms.algorithm import Algorithm, Loss
from torch_backend.algorithms.maml import MAML
from torch_backend.apply import Model
from torch_backend.functional import cross_entropy, get_prototypes
from torch_backend.optimisers import sgd
from torch_backend.tasks import Batch, Randomness

__all__ = ["ProtoMAML"]


class ProtoMAML(Algorithm):
    """MAML over an embedding and a linear head that starts, in every task, as the prototypical classifier.

    With embedding f of parameters θ and the prototypes c_n, the class means of the embedded support set:

        W_n = 2 c_n,  b_n = −‖c_n‖²,  logit_n(x) = W_n · f(x) + b_n

    These logits are −‖f(x) − c_n‖² up to a term that all classes share. The inner loop of MAML then adapts θ, W and b,
    and the meta-gradient flows through the first W and b too. Triantafillou et al. 2020 (arXiv 1903.03096), section
    3.2. Meta-Dataset's tasks differ in their number of classes; here all have N.

    Args:
        model: the embedding: a MetaModule, an ordinary module, or a pure function `(params, inputs)` → `(n, D)`.
        ways: classes of a task, N.
        task_map: see `Algorithm`.
        randomness: see `Algorithm`.
        options: the other arguments of `MAML` but `loss`, which is the cross-entropy. To `names` the embedding's
            parameters are `network.<name>`, the head's `head.weight` and `head.bias`.

    Raises:
        TypeError: as `MAML`.
        ValueError: if `ways` is below 2, or as `MAML`.
    """

    has_inner_steps = True

    def __init__(
        self, model: Model, *, ways: int, task_map: TaskMap = "auto", randomness: Randomness = "error", **options: Any
    ) -> None:
        super().__init__(model, task_map, randomness)
        check_count(ways, "ways", least=2)
        self.ways = ways
        self.maml = MAML(self.logits, cross_entropy, **options)

    @classmethod
    def from_config(
        cls,
        config: ProtoMAMLConfig,
        modules: Mapping[str, Model],
        loss: Loss,
        ways: int | None,
        task_map: TaskMap = "auto",
    ) -> "ProtoMAML":
        """The algorithm of a record."""
        del loss
        adjoint = FirstOrder() if config.first_order else Unrolled()
        return cls(
            modules["network"],
            ways=ways or 0,
            optimiser=sgd(config.inner_lr),
            steps=config.inner_steps,
            adjoint=adjoint,
            task_map=task_map,
        )

    def logits(self, params: Any, inputs: Tensor) -> Tensor:
        """Logits `(n, N)` of an embedding and a head, which are `params["network"]` and `params["head"]`."""
        head = part_of(params, "head")
        return self.apply(params["network"], inputs) @ head["weight"].T + head["bias"]

    def initial(self, params: Any, inputs: Tensor, targets: Tensor) -> Any:
        """The embedding and its first head, `{"network": …, "head": …}`, for one support set."""
        prototypes = get_prototypes(self.apply(params, inputs), targets, self.ways)
        head = {"weight": 2 * prototypes, "bias": -(prototypes**2).sum(-1)}
        return {"network": params, "head": head}

    def adapt(self, params: Any, inputs: Tensor, targets: Tensor, steps: int | None = None) -> Any:
        """The embedding and its head, `{"network": …, "head": …}`, after the inner loop on one support set.

        Args:
            params: the meta-parameters, those of the embedding.
            inputs: of the support set.
            targets: of the support set.
            steps: how many; `None` for the algorithm's own number, 0 for the prototypical classifier.
        """
        return self.maml.adapt(self.initial(params, inputs, targets), inputs, targets, steps)

    def predict_task(self, params: Any, task: Batch, steps: int | None = None) -> Tensor:
        """Logits `(n, N)` of one task's query set after the inner loop on its support set."""
        return self.logits(self.adapt(params, *task["train"], steps), task["test"][0])

    def task_loss(self, params: Any, task: Batch) -> Tensor:
        """The cross-entropy on one task's query set."""
        return cross_entropy(self.predict_task(params, task), task["test"][1])
