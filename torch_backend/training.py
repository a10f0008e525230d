"""The visible meta-step: batch → meta-gradient → Adam."""

import numpy as np
import numpy.typing as npt
import torch

from metabridge.adaptation.task_maps import choose_task_map
from metabridge.backends import check_finite
from metabridge.configs import RunConfig
from metabridge.networks.parameters import Parameters
from metabridge.networks.tables import NETWORKS
from torch_backend.algorithms import MAML
from torch_backend.algorithms.maml import Batch
from torch_backend.functional import accuracy, cross_entropy, mean_squared_error
from torch_backend.models import build_model
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
        self.run = run
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.device = device
        self.classifies = run.episode.ways is not None
        # Parameters come from outside, so names and shapes suffice; drawing some would move the random state.
        with torch.device("meta"):
            model = build_model(run.model)
        self.algorithm = MAML(
            apply=lambda params, inputs: model(inputs, params=params),
            loss=cross_entropy if self.classifies else mean_squared_error,
            config=run.algorithm,
            task_map=choose_task_map(device.type, NETWORKS[run.model.name].takes_images),
        )
        self.params = from_neutral(parameters, run.model, self.dtype, device)
        self.optimiser = torch.optim.Adam(
            list(self.params.values()),
            lr=run.optimiser.learning_rate,
            betas=run.optimiser.betas,
            eps=run.optimiser.eps,
        )
        self.steps_done = 0

    def step(self, batch: Batch) -> float:
        """One meta-step; returns the meta-objective before it.

        Raises:
            FloatingPointError: if the meta-objective is NaN or infinite; the parameters stay as they were.
        """
        objective, gradients = self.algorithm.meta_gradient(self.params, batch)
        value = check_finite(objective.item(), self.steps_done)
        for name, parameter in self.params.items():
            parameter.grad = gradients[name]
        self.optimiser.step()
        self.steps_done += 1
        return value

    def meta_gradient(self, batch: Batch) -> tuple[float, Parameters]:
        """The meta-objective at the current parameters and its gradient, as neutral parameters."""
        objective, gradients = self.algorithm.meta_gradient(self.params, batch)
        return objective.item(), to_neutral(gradients, self.run.model)

    def objective_at(self, parameters: Parameters, batch: Batch) -> float:
        """The meta-objective at other (neutral) parameters."""
        params = from_neutral(parameters, self.run.model, self.dtype, self.device)
        return self.algorithm.objective(params, batch).item()

    def predict(self, batch: Batch, inner_steps: int | None = None) -> npt.NDArray[np.floating]:
        """Query outputs `(B, n, outputs)` after `inner_steps` of adapting to each task (default: the run's)."""
        return self.algorithm.predict_batch(self.params, batch, inner_steps).cpu().numpy()

    def evaluate(self, batch: Batch, inner_steps: int | None = None) -> npt.NDArray[np.float64]:
        """`(B,)` quality of each task after `inner_steps` (default: the run's): accuracy, or mean squared error."""
        measure = accuracy if self.classifies else mean_squared_error
        outputs, targets = self.algorithm.predict_batch(self.params, batch, inner_steps), batch["test"][1]
        return np.array([measure(each, target).item() for each, target in zip(outputs, targets, strict=True)])

    def parameters(self) -> Parameters:
        """The current parameters, neutral."""
        return to_neutral(self.params, self.run.model)
