"""The visible meta-step: batch → meta-gradient → outer optimiser."""

import functools
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from flax import nnx

from jax_backend.algorithms import ALGORITHMS
from jax_backend.evaluation import task_qualities
from jax_backend.functional import cross_entropy, mean_squared_error
from jax_backend.models import build_model
from jax_backend.optimisers import from_config
from jax_backend.tasks import Batch
from jax_backend.weights import from_neutral, to_neutral
from metabridge.adaptation.task_maps import resolve_task_map
from metabridge.checks import check_instance
from metabridge.configs import AlgorithmConfig, EpisodeConfig, ModelConfig, OptimiserConfig, RunConfig
from metabridge.networks.layers import Chain
from metabridge.networks.parameters import Parameters, parameter_shapes
from metabridge.networks.parts import join_parts, split_parts
from metabridge.runs.losses import Attempt, StepCounter, StepLoss
from metabridge.runs.states import State, join_state, split_state

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
        check_instance(run, RunConfig, "run")
        self.run = run
        self.dtype = dtype
        self.device = device
        self._start_counting(0)
        with self._precision():
            self.params = from_neutral(parameters, run.layers, dtype, device)
            # Committed to the device like everything else: otherwise the second step would compile again.
            self.optimiser_state = jax.device_put(self._programs.optimiser.init(self.params), device)

    def _precision(self) -> AbstractContextManager[Any]:
        return precision(self.dtype)

    def _start_counting(self, steps_done: int) -> None:
        with self._precision():
            none = Attempt(np.int32(steps_done), np.zeros(3, self.dtype))
            done, refused = jax.device_put((none.step, none), self.device)
        self._counter = StepCounter(steps_done, done, refused)
        self._choices: AlgorithmConfig | None = None
        self._follow_schedule()

    def _follow_schedule(self) -> None:
        """Take the algorithm with the choices of the next meta-step."""
        run, choices = self.run, self.run.algorithm.at_step(self._counter.attempts)
        if choices != self._choices:
            self._programs = _programs(run.model, choices, run.optimiser, run.episode, self.device.platform)
            self._choices, self.algorithm = choices, self._programs.algorithm

    @property
    def steps_done(self) -> int:
        """Meta-steps done; refused ones do not count."""
        return self._counter.steps_done

    def step(self, batch: Batch) -> StepLoss:
        """Do one meta-step and return the meta-loss before it; read it with `float`.

        It does not wait for the device. A step whose loss, gradient or update is not finite changes nothing; reading
        its loss, or looking at the learner before that, raises `FloatingPointError`.
        """
        counter = self._counter
        with self._precision():
            self.params, self.optimiser_state, numbers, done, refused = self._programs.step(
                self.params, self.optimiser_state, counter.done, counter.refused, batch
            )
        loss_before = counter.add(Attempt(counter.done, numbers), done, refused)
        self._follow_schedule()
        return loss_before

    def meta_gradient(self, batch: Batch) -> tuple[float, Parameters]:
        """The meta-loss at the current parameters and its gradient, as neutral parameters."""
        with self._precision():
            loss, gradients = self.algorithm.meta_gradient(self._tree(self.params), batch)
            return float(loss), self._to_neutral(join_parts(gradients, self.run.parts))

    def _tree(self, params: Mapping[str, jax.Array]) -> Any:
        """The meta-parameters as the algorithm takes them."""
        return split_parts(params, self.run.parts)

    def loss_at(self, parameters: Parameters, batch: Batch) -> float:
        """The meta-loss at other (neutral) parameters."""
        with self._precision():
            return float(self.algorithm.loss(self._tree(self._from_neutral(parameters)), batch))

    def predict(self, batch: Batch, inner_steps: int | None = None) -> npt.NDArray[np.floating]:
        """Query outputs `(B, n, outputs)` after `inner_steps` of adapting to each task (default: the run's)."""
        self._counter.check()
        with self._precision():
            return np.asarray(self.algorithm.predict(self._tree(self.params), batch, inner_steps))

    def evaluate(self, batch: Batch, inner_steps: int | None = None) -> npt.NDArray[np.float64]:
        """`(B,)` quality of each task after `inner_steps` (default: the run's): accuracy, or mean squared error."""
        self._counter.check()
        with self._precision():
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
        with self._precision():
            params, optimiser_state, steps_done = split_state(state, self.optimiser_state, shapes, self._from_neutral)
            # Committed to the device like everything else: otherwise the second step would compile again.
            self.params, self.optimiser_state = jax.device_put((params, optimiser_state), self.device)
        self._start_counting(steps_done)

    def _to_neutral(self, params: Mapping[str, jax.Array]) -> Parameters:
        return to_neutral(params, self.run.layers)

    def _from_neutral(self, parameters: Parameters) -> dict[str, jax.Array]:
        return from_neutral(parameters, self.run.layers, self.dtype, self.device)


class _Programs:
    """The algorithm, the optimiser and the compiled meta-step of one configuration."""

    def __init__(self, algorithm: Any, parts: Collection[str], optimiser: optax.GradientTransformation) -> None:
        self.algorithm = algorithm
        self.parts = parts
        self.optimiser = optimiser
        self.step = jax.jit(self._step)

    def _step(
        self, params: Any, state: Any, done: jax.Array, refused: Attempt, batch: Batch
    ) -> tuple[Any, Any, jax.Array, jax.Array, Attempt]:
        """Parameters and optimiser state after a step, its numbers, and the two counts of `StepCounter`."""
        loss, tree = self.algorithm.meta_gradient(split_parts(params, self.parts), batch)
        gradients = join_parts(tree, self.parts)
        updates, new_state = self.optimiser.update(gradients, state, params)
        new = optax.apply_updates(params, updates), new_state
        numbers = jnp.stack([loss, _largest(gradients), _largest(new)])
        accepted = jnp.isfinite(numbers).all()
        params, state = _choose(accepted, new, (params, state))
        return params, state, numbers, done + accepted, _choose(accepted, refused, Attempt(done, numbers))


def _choose(condition: jax.Array, new: Any, old: Any) -> Any:
    """The tree `new` where the condition holds, else `old`, decided on the device."""
    return jax.tree.map(lambda ours, before: jnp.where(condition, ours, before), new, old)


def _largest(tree: Any) -> jax.Array:
    """The largest absolute entry of a tree without its counts; NaN if one is NaN."""
    leaves = [leaf.ravel() for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.abs(jnp.concatenate(leaves)).max()  # one pass: many small ones cost more than a copy


@functools.lru_cache(maxsize=16)
def _programs(
    model: ModelConfig, algorithm: AlgorithmConfig, optimiser: OptimiserConfig, episode: EpisodeConfig, platform: str
) -> _Programs:
    """Learners of the same configuration share their compiled functions: XLA takes seconds for a convolution."""
    run = RunConfig(model=model, algorithm=algorithm, optimiser=optimiser, episode=episode)
    # Parameters come from outside, so names and shapes suffice; drawing some would take seconds to compile.
    modules = {
        part: nnx.eval_shape(functools.partial(build_model, table))
        for part, table in run.parts.items()
        if isinstance(table, Chain)
    }
    loss = mean_squared_error if episode.ways is None else cross_entropy
    # Inside of a compiled step no array tells where it is.
    task_map = resolve_task_map("auto", platform, parameter_shapes(run.layers).values())
    made = ALGORITHMS[algorithm.name].from_config(algorithm, modules, loss, episode.ways, task_map)
    return _Programs(made, tuple(run.parts), from_config(optimiser))


def precision(dtype: str) -> AbstractContextManager[Any]:
    """JAX's 64-bit mode, on for `"float64"` and off for `"float32"`, inside a `with` block of this thread only."""
    return jax.enable_x64(dtype == "float64")
