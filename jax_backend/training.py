"""The visible meta-step: batch → meta-gradient → Adam."""

import functools
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx

from jax_backend.algorithms import MAML
from jax_backend.algorithms.maml import Batch, Params
from jax_backend.functional import accuracy, cross_entropy, mean_squared_error
from jax_backend.models import build_model
from jax_backend.weights import from_neutral, to_neutral
from metabridge.adaptation.task_maps import TaskMap, choose_task_map
from metabridge.backends import check_finite
from metabridge.configs import AlgorithmConfig, ModelConfig, OptimiserConfig, RunConfig
from metabridge.networks.parameters import Parameters
from metabridge.networks.tables import NETWORKS

__all__ = ["Learner", "precision"]


class Learner:
    """Parameters, optimiser and algorithm of one run; the same class in both backends.

    Args:
        run: the run's configuration.
        parameters: initial neutral parameters.
        dtype: `"float32"` or `"float64"`; 64-bit mode is on only while a method of the learner runs.
        device: where to compute.
    """

    def __init__(self, run: RunConfig, parameters: Parameters, dtype: str, device: jax.Device) -> None:
        self.run = run
        self.dtype = dtype
        self.device = device
        self.classifies = run.episode.ways is not None
        task_map = choose_task_map(device.platform, NETWORKS[run.model.name].takes_images)
        programs = _programs(run.model, run.algorithm, run.optimiser, self.classifies, task_map)
        self.algorithm = programs.algorithm
        self._programs = programs
        with self._precision():
            self.params = from_neutral(parameters, run.model, dtype, device)
            # Committed to the device like everything else: otherwise the second step would compile again.
            self.optimiser_state = jax.device_put(programs.optimiser.init(self.params), device)
        self.steps_done = 0

    def _precision(self) -> AbstractContextManager[Any]:
        return precision(self.dtype)

    def step(self, batch: Batch) -> float:
        """One meta-step; returns the meta-objective before it.

        Raises:
            FloatingPointError: if the meta-objective is NaN or infinite; the parameters stay as they were.
        """
        with self._precision():
            objective, params, state = self._programs.step(self.params, self.optimiser_state, batch)
        value = check_finite(float(objective), self.steps_done)
        self.params, self.optimiser_state = params, state
        self.steps_done += 1
        return value

    def meta_gradient(self, batch: Batch) -> tuple[float, Parameters]:
        """The meta-objective at the current parameters and its gradient, as neutral parameters."""
        with self._precision():
            objective, gradients = self._programs.meta_gradient(self.params, batch)
            return float(objective), to_neutral(gradients, self.run.model)

    def objective_at(self, parameters: Parameters, batch: Batch) -> float:
        """The meta-objective at other (neutral) parameters."""
        with self._precision():
            params = from_neutral(parameters, self.run.model, self.dtype, self.device)
            return float(self._programs.objective(params, batch))

    def predict(self, batch: Batch, inner_steps: int | None = None) -> npt.NDArray[np.floating]:
        """Query outputs `(B, n, outputs)` after `inner_steps` of adapting to each task (default: the run's)."""
        with self._precision():
            return np.asarray(self._programs.predict(self.params, batch, steps=inner_steps))

    def evaluate(self, batch: Batch, inner_steps: int | None = None) -> npt.NDArray[np.float64]:
        """`(B,)` quality of each task after `inner_steps` (default: the run's): accuracy, or mean squared error."""
        measure = accuracy if self.classifies else mean_squared_error
        with self._precision():
            outputs = self._programs.predict(self.params, batch, steps=inner_steps)
            return np.asarray(jax.vmap(measure)(outputs, batch["test"][1]), dtype=np.float64)

    def parameters(self) -> Parameters:
        """The current parameters, neutral."""
        return to_neutral(self.params, self.run.model)


class _Programs:
    """The compiled functions of one configuration."""

    def __init__(self, algorithm: MAML, optimiser: optax.GradientTransformation) -> None:
        self.algorithm = algorithm
        self.optimiser = optimiser
        self.step = jax.jit(self._step)
        self.meta_gradient = jax.jit(algorithm.meta_gradient)
        self.objective = jax.jit(algorithm.objective)
        self.predict = jax.jit(algorithm.predict_batch, static_argnames="steps")

    def _step(self, params: Params, state: Any, batch: Batch) -> tuple[jax.Array, Params, Any]:
        objective, gradients = self.algorithm.meta_gradient(params, batch)
        updates, state = self.optimiser.update(gradients, state, params)
        return objective, optax.apply_updates(params, updates), state


@functools.lru_cache(maxsize=16)
def _programs(
    model: ModelConfig, algorithm: AlgorithmConfig, optimiser: OptimiserConfig, classifies: bool, task_map: TaskMap
) -> _Programs:
    """Learners of the same configuration share their compiled functions: XLA takes seconds for a convolution."""
    # Parameters come from outside, so names and shapes suffice; drawing some would take seconds to compile.
    network = nnx.eval_shape(lambda: build_model(model))
    maml = MAML(
        apply=lambda params, inputs: network(inputs, params=params),
        loss=cross_entropy if classifies else mean_squared_error,
        config=algorithm,
        task_map=task_map,
    )
    adam = optax.adam(optimiser.learning_rate, b1=optimiser.betas[0], b2=optimiser.betas[1], eps=optimiser.eps)
    return _Programs(maml, adam)


def precision(dtype: str) -> AbstractContextManager[Any]:
    """JAX's 64-bit mode, on for `"float64"` and off for `"float32"`, inside a `with` block of this thread only."""
    return jax.enable_x64(dtype == "float64")
