"""Implicit MAML (Rajeswaran, Finn, Kakade, Levine 2019, arXiv 1909.04630): derivatives of where an inner loop ends."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from metabridge.adaptation.steps import check_steps
from metabridge.adaptation.task_maps import TaskMap
from metabridge.adaptation.trees import map_leaves
from metabridge.checks import check_positive, require
from metabridge.configs import ImplicitMAMLConfig
from torch_backend.adjoints import FirstOrder, Unrolled
from torch_backend.algorithms.algorithm import Loss
from torch_backend.algorithms.maml import MAML
from torch_backend.apply import Model
from torch_backend.descent import descend
from torch_backend.optimisers import sgd
from torch_backend.solvers import conjugate_gradient, inner_product
from torch_backend.tasks import Batch

__all__ = ["ImplicitMAML"]


class ImplicitMAML(MAML):
    """MAML whose inner loop is pulled back to the meta-parameters, and whose meta-gradient forgets the path.

    With θ = `params`, support loss `L_s`, query loss `L_q` and λ = `proximal`:

        φ = argmin of L_s(φ) + λ/2 ‖φ − θ‖²,  meta-gradient = (I + ∇² L_s(φ) / λ)⁻¹ ∇ L_q(φ)

    Rajeswaran, Finn, Kakade, Levine 2019 (arXiv 1909.04630), equations 3 and 6, algorithms 1 and 2. The inner loop
    takes `steps` steps of the optimiser towards φ, and `cg_steps` steps of conjugate gradients solve the linear system.
    The meta-gradient is that of the meta-loss where both have converged. `residual` says how far the inner loop is from
    there. Memory does not grow with the number of steps.

    Args:
        model: see `MAML`.
        loss: see `MAML`.
        proximal: λ, positive.
        cg_steps: steps of conjugate gradients; 0 leaves out the second derivatives: the meta-gradient is ∇ L_q(φ).
        options: the other arguments of `MAML` but `names` and `adjoint`.

    Raises:
        ValueError: if `proximal` is not positive, `cg_steps` is negative, or `names` is given; see also `MAML`.
    """

    def __init__(self, model: Model, loss: Loss, *, proximal: float = 1.0, cg_steps: int = 5, **options: Any) -> None:
        names = options.get("names")
        require(names is None, "names", "None: the pull to θ is that of all parameters", names, "leave it out")
        super().__init__(model, loss, adjoint=FirstOrder(), **options)
        check_positive(proximal, "proximal")
        check_steps(cg_steps)
        self.proximal = proximal
        self.cg_steps = cg_steps

    @classmethod
    def from_config(  # type: ignore[override]  # its own record
        cls,
        config: ImplicitMAMLConfig,
        modules: Mapping[str, Model],
        loss: Loss,
        ways: int | None,
        task_map: TaskMap = "auto",
    ) -> "ImplicitMAML":
        """The algorithm of a record."""
        del ways
        return cls(
            modules["network"],
            loss,
            proximal=config.proximal,
            cg_steps=config.cg_steps,
            optimiser=sgd(config.inner_lr),
            steps=config.inner_steps,
            task_map=task_map,
        )

    def adapt(self, params: Any, inputs: Tensor, targets: Tensor, steps: int | None = None) -> Any:
        """φ after `steps` steps, as a constant: gradients reach `params` by `task_loss` alone. See `MAML.adapt`."""
        start = _constant(params)
        return descend(
            self._pulled_back(start, inputs, targets),
            start,
            optimiser=self.optimiser,
            steps=self.steps if steps is None else steps,
            adjoint=self.adjoint,
        ).params

    def task_loss(self, params: Any, task: Batch) -> Tensor:
        """The loss on one task's query set at φ; its gradient with respect to `params` is the implicit one."""
        after = self.adapt(params, *task["train"])
        slope, value = FirstOrder().gradient(self._loss_on(*task["test"]), after)
        support = self._loss_on(*task["train"])

        def matvec(direction: Any) -> Any:
            """(I + ∇² L_s / λ) applied to a direction, by a derivative of ⟨∇ L_s, direction⟩."""

            def along(values: Any) -> tuple[Tensor, Any]:
                return inner_product(Unrolled().gradient(support, values)[0], direction), ()

            product, _ = FirstOrder().gradient(along, after)
            return map_leaves(lambda d, p: d + p / self.proximal, direction, product)

        gradient = conjugate_gradient(matvec, slope, self.cg_steps) if self.cg_steps else slope
        # The value of the loss, and a gradient that is this constant.
        lever = inner_product(params, _constant(gradient))
        return _constant(value) + lever - _constant(lever)

    def residual(self, params: Any, inputs: Tensor, targets: Tensor) -> Tensor:
        """How far the inner loop ends from its solution on one support set: ‖∇ (L_s + λ/2 ‖φ − θ‖²)‖ / ‖∇ L_s(θ)‖.

        The meta-gradient is right up to about this number; take more steps or another rate where it is not small.
        """
        start = _constant(params)
        pulled = self._pulled_back(start, inputs, targets)
        slopes = [
            FirstOrder().gradient(lambda values: (pulled(values), ()), values)[0]
            for values in (self.adapt(params, inputs, targets), start)
        ]
        end, beginning = (inner_product(slope, slope) ** 0.5 for slope in slopes)
        return end / beginning

    def _loss_on(self, inputs: Tensor, targets: Tensor) -> Callable[[Any], tuple[Tensor, Tensor]]:
        """Parameters → the loss on a set, twice: to differentiate and to keep."""

        def loss(values: Any) -> tuple[Tensor, Tensor]:
            value = self.loss_function(self.apply(values, inputs), targets)
            return value, value

        return loss

    def _pulled_back(self, start: Any, inputs: Tensor, targets: Tensor) -> Callable[[Any], Tensor]:
        """L_s + λ/2 ‖φ − θ‖² as a function of φ."""
        support = self._loss_on(inputs, targets)

        def loss(values: Any) -> Tensor:
            way = map_leaves(lambda value, origin: value - origin, values, start)
            return support(values)[0] + self.proximal / 2 * inner_product(way, way)

        return loss


def _constant(tree: Any) -> Any:
    """The same numbers without a graph."""
    return map_leaves(lambda leaf: leaf.detach(), tree)
