"""The visible meta-step: batch → meta-gradient → outer optimiser."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metabridge.adaptation.trees import flatten, unflatten
from metabridge.checks import check_instance
from metabridge.configs import AlgorithmConfig, RunConfig
from metabridge.networks.layers import Chain
from metabridge.networks.parameters import Parameters, parameter_shapes
from metabridge.networks.parts import join_parts, split_parts
from metabridge.runs.losses import Attempt, StepCounter, StepLoss
from metabridge.runs.states import State, join_state, split_state
from torch_backend.algorithms import ALGORITHMS
from torch_backend.evaluation import task_qualities
from torch_backend.functional import cross_entropy, mean_squared_error
from torch_backend.models import build_model
from torch_backend.optimisers import from_config
from torch_backend.tasks import Batch
from torch_backend.weights import from_neutral, to_neutral

__all__ = ["Learner"]


class Learner:
    """Parameters, optimiser and algorithm of one run; the same class in both backends.

    Args:
        run: the run's configuration.
        parameters: initial neutral parameters.
        dtype: `"float32"` or `"float64"`.
        device: where to compute.
    """

    def __init__(self, run: RunConfig, parameters: Parameters, dtype: str, device: torch.device) -> None:
        check_instance(run, RunConfig, "run")
        self.run = run
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.device = device
        classifies = run.episode.ways is not None
        # Parameters come from outside, so names and shapes suffice; drawing some would move the random state.
        with torch.device("meta"):
            self._modules = {part: build_model(table) for part, table in run.parts.items() if isinstance(table, Chain)}
        self._loss = cross_entropy if classifies else mean_squared_error
        self.optimiser = from_config(run.optimiser)
        self.params = from_neutral(parameters, run.layers, self.dtype, device)
        self.optimiser_state = _counts_on_device(self.optimiser.init(self.params), device)
        self._start_counting(0)

    def _start_counting(self, steps_done: int) -> None:
        done = torch.tensor(steps_done, device=self.device)
        none = Attempt(done, torch.zeros(3, dtype=self.dtype, device=self.device))
        self._counter = StepCounter(steps_done, done, none)
        self._choices: AlgorithmConfig | None = None
        self._follow_schedule()

    def _follow_schedule(self) -> None:
        """Take the algorithm with the choices of the next meta-step."""
        choices = self.run.algorithm.at_step(self._counter.attempts)
        if choices != self._choices:
            made = ALGORITHMS[choices.name].from_config(choices, self._modules, self._loss, self.run.episode.ways)
            self._choices, self.algorithm = choices, made

    @property
    def steps_done(self) -> int:
        """Meta-steps done; refused ones do not count."""
        return self._counter.steps_done

    def step(self, batch: Batch) -> StepLoss:
        """Do one meta-step and return the meta-loss before it; read it with `float`.

        It does not wait for the device. A step whose loss, gradient or update is not finite changes nothing; reading
        its loss, or looking at the learner before that, raises `FloatingPointError`.
        """
        loss, gradients = self._meta_gradient(batch)
        counter = self._counter
        with torch.no_grad():
            updates, state = self.optimiser.update(gradients, self.optimiser_state, self.params)
            params = {name: value + updates[name] for name, value in self.params.items()}
            numbers = torch.stack([loss, _largest(gradients), _largest((params, state))])
            accepted = torch.isfinite(numbers).all()
        attempt = Attempt(counter.done, numbers)
        self.params = _choose(accepted, params, self.params)
        self.optimiser_state = _choose(accepted, state, self.optimiser_state)
        loss_before = counter.add(attempt, counter.done + accepted, _choose(accepted, counter.refused, attempt))
        self._follow_schedule()
        return loss_before

    def meta_gradient(self, batch: Batch) -> tuple[float, Parameters]:
        """The meta-loss at the current parameters and its gradient, as neutral parameters."""
        loss, gradients = self._meta_gradient(batch)
        return loss.item(), self._to_neutral(gradients)

    def _meta_gradient(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, gradients = self.algorithm.meta_gradient(self._tree(self.params), batch)
        return loss, join_parts(gradients, self.run.parts)

    def _tree(self, params: Mapping[str, Tensor]) -> Any:
        """The meta-parameters as the algorithm takes them."""
        return split_parts(params, self.run.parts)

    def loss_at(self, parameters: Parameters, batch: Batch) -> float:
        """The meta-loss at other (neutral) parameters."""
        return self.algorithm.loss(self._tree(self._from_neutral(parameters)), batch).item()

    def predict(self, batch: Batch, inner_steps: int | None = None) -> npt.NDArray[np.floating]:
        """Query outputs `(B, n, outputs)` after `inner_steps` of adapting to each task (default: the run's)."""
        self._counter.check()
        return self.algorithm.predict(self._tree(self.params), batch, inner_steps).cpu().numpy()

    def evaluate(self, batch: Batch, inner_steps: int | None = None) -> npt.NDArray[np.float64]:
        """`(B,)` quality of each task after `inner_steps` (default: the run's): accuracy, or mean squared error."""
        self._counter.check()
        return task_qualities(self.algorithm, self._tree(self.params), batch, inner_steps)

    def parameters(self) -> Parameters:
        """The current parameters, neutral."""
        self._counter.check()
        return self._to_neutral(self.params)

    def state(self) -> State:
        """Parameters, optimiser state and number of steps as one flat mapping; see `metabridge.runs.states`."""
        self._counter.check()
        return join_state(self.params, self.optimiser_state, self.steps_done, self._to_neutral)

    def load_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue from a state that a learner of either backend returned.

        Raises:
            ValueError: for the state of another network or optimiser. Then nothing was loaded.
        """
        shapes = parameter_shapes(self.run.layers)
        self.params, optimiser_state, steps_done = split_state(state, self.optimiser_state, shapes, self._from_neutral)
        self.optimiser_state = _counts_on_device(optimiser_state, self.device)
        self._start_counting(steps_done)

    def _to_neutral(self, params: Mapping[str, Tensor]) -> Parameters:
        return to_neutral(params, self.run.layers)

    def _from_neutral(self, parameters: Parameters) -> dict[str, Tensor]:
        return from_neutral(parameters, self.run.layers, self.dtype, self.device)


def _choose(condition: Tensor, new: Any, old: Any) -> Any:
    """The tree `new` where the condition holds, else `old`, decided on the device."""
    before = flatten(old)
    return unflatten(old, {name: torch.where(condition, value, before[name]) for name, value in flatten(new).items()})


def _largest(tree: Any) -> Tensor:
    """The largest absolute entry of a tree without its counts; NaN if one is NaN."""
    leaves = [leaf.flatten() for leaf in flatten(tree).values() if leaf.is_floating_point()]
    return torch.linalg.vector_norm(torch.cat(leaves), math.inf)  # one pass: many small ones cost more than a copy


def _counts_on_device(state: Any, device: torch.device) -> Any:
    """An optimiser's state whose counts are tensors, so that a refused step need not wait for the device."""
    leaves = flatten(state)
    return unflatten(state, {name: torch.as_tensor(value, device=device) for name, value in leaves.items()})
