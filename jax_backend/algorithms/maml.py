"""MAML (Finn, Abbeel, Levine 2017, arXiv 1703.03400): learn parameters from which a few gradient steps suffice."""

from collections.abc import Mapping
from typing import Any

import jax

from jax_backend.adaptation import adapt
from jax_backend.adjoints import Adjoint, FirstOrder, Unrolled
from jax_backend.algorithms.algorithm import Algorithm, Loss
from jax_backend.apply import Model
from jax_backend.optimisers import FOREIGN, Optimiser, sgd
from jax_backend.tasks import Batch
from metabridge.adaptation.names import Selection
from metabridge.adaptation.rates import check_optimiser
from metabridge.adaptation.steps import check_adjoint, check_steps
from metabridge.adaptation.task_maps import TaskMap
from metabridge.checks import check_callable
from metabridge.configs import MAMLConfig

__all__ = ["MAML"]


class MAML(Algorithm):
    """Model-agnostic meta-learning: the loss on the query set after a few steps on the support set.

    For a task with support loss `L_s` and query loss `L_q`:

        φ_0 = θ,  φ_{k+1} = φ_k − α ∇ L_s(φ_k)  for k < steps,  meta-loss = L_q(φ_steps)

    Finn, Abbeel, Levine 2017 (arXiv 1703.03400), equation 1 and algorithm 1, with θ = `params`. The meta-loss of a
    meta-batch is the mean over its tasks, where the paper sums them; any optimiser may take the place of gradient
    descent.

        maml = MAML(network.apply, cross_entropy, optimiser=optax.sgd(0.4), steps=5)
        loss, gradients = maml.meta_gradient(params, batch)     # or jax.grad(maml.loss)(params, batch)

    Args:
        model: a MetaModule, an ordinary NNX module, or a pure function `(params, inputs)` → outputs, such as the
            `apply` of a Linen module.
        loss: a function `(outputs, targets)` → scalar.
        optimiser: of the inner loop, of `jax_backend.optimisers` or of Optax.
        steps: inner steps.
        names: which parameters adapt, a pattern such as `"head.*"`, several, a predicate of the name, or `None` for
            all.
        adjoint: how the inner loop is differentiated, see `jax_backend.adjoints`.
        task_map: see `Algorithm`.

    Raises:
        TypeError: if `optimiser` is no pair of functions or of another framework, `adjoint` no adjoint, or `model`
            neither a module nor a function.
        ValueError: if `steps` is negative, or for an unknown `task_map`.
    """

    has_inner_steps = True

    def __init__(
        self,
        model: Model,
        loss: Loss,
        *,
        optimiser: Optimiser,
        steps: int = 1,
        names: Selection = None,
        adjoint: Adjoint = Unrolled(),  # noqa: B008  # frozen
        task_map: TaskMap = "auto",
    ) -> None:
        super().__init__(model, task_map)
        check_optimiser(optimiser, foreign=FOREIGN)
        check_callable(loss, "loss")
        check_steps(steps)
        check_adjoint(adjoint)
        self.loss_function = loss
        self.optimiser = optimiser
        self.steps = steps
        self.names = names
        self.adjoint = adjoint

    @classmethod
    def from_config(
        cls, config: MAMLConfig, modules: Mapping[str, Model], loss: Loss, ways: int | None, task_map: TaskMap = "auto"
    ) -> "MAML":
        """The algorithm of a record, for a network with a head."""
        del ways
        adjoint = FirstOrder() if config.first_order else Unrolled()
        return cls(
            modules["network"],
            loss,
            optimiser=sgd(config.inner_lr),
            steps=config.inner_steps,
            names=config.names,
            adjoint=adjoint,
            task_map=task_map,
        )

    def initial(self, params: Any) -> Any:
        """The network's parameters before the inner loop: `params`, where a subclass has no other meta-parameters."""
        return params

    def inner_optimiser(self, params: Any) -> Optimiser:
        """The optimiser of the inner loop, which a subclass may make of meta-parameters."""
        del params
        return self.optimiser

    def adapt(self, params: Any, inputs: jax.Array, targets: jax.Array, steps: int | None = None) -> Any:
        """The network's parameters after the inner loop on one support set, a tree like `initial(params)`.

        Args:
            params: the meta-parameters.
            inputs: of the support set.
            targets: of the support set.
            steps: how many; `None` for the algorithm's own number.
        """
        return adapt(
            self.model,
            self.loss_function,
            inputs,
            targets,
            optimiser=self.inner_optimiser(params),
            steps=self.steps if steps is None else steps,
            params=self.initial(params),
            names=self.names,
            adjoint=self.adjoint,
        ).params

    def predict_task(self, params: Any, task: Batch, steps: int | None = None) -> jax.Array:
        """Outputs `(n, …)` on one task's query set after the inner loop on its support set."""
        return self.apply(self.adapt(params, *task["train"], steps), task["test"][0])

    def task_loss(self, params: Any, task: Batch) -> jax.Array:
        """The loss on one task's query set after the inner loop on its support set."""
        return self.loss_function(self.predict_task(params, task), task["test"][1])
