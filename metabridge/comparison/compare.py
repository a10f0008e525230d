"""The main job: the same meta-training in two backends, on the same episodes, from the same parameters.

Agreement is measured in float64: the episodes that arrived, the meta-gradients (against each other, against
finite differences and against the first-order gradient) and two whole runs side by side. Speed and quality are
measured in float32, one backend after the other. The records of `metabridge.comparison.findings` hold the results.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.backends import Backend, Learner, load_backend
from metabridge.checks import check_instance
from metabridge.comparison.findings import (
    NAMES,
    AdaptationCurves,
    Comparison,
    Episodes,
    MetaGradient,
    Training,
    Trajectory,
)
from metabridge.comparison.measures import LIMITS, central_difference_error, identical_episodes, random_direction
from metabridge.configs import AlgorithmConfig, RunConfig
from metabridge.digests import Digest
from metabridge.episodes.batches import EpisodeBatch, arrays_digest
from metabridge.episodes.loader import EpisodeLoader
from metabridge.episodes.metadatasets import CombinationMetaDataset, MetaDataset
from metabridge.networks.parameters import Parameters, initial_parameters, relative_difference
from metabridge.runs.evaluation import Evaluation, evaluation_loader
from metabridge.runs.losses import check_finite
from metabridge.runs.manifests import make_manifest
from metabridge.runs.progress import Progress, no_progress, progress_bar
from metabridge.toy import ToyMetaDataset

__all__ = ["compare"]

_DIRECTIONS = 2
_CURVE_TASKS = 4
_CURVE_POINTS = 241


def compare(
    run: RunConfig,
    meta_train: MetaDataset,
    meta_test: MetaDataset,
    device: str = "auto",
    progress: bool = True,
    announce: Callable[[float], None] | None = None,
) -> Comparison:
    """Run the same meta-training in PyTorch and in JAX and measure how far they agree.

    Args:
        run: the run's configuration.
        meta_train: where the training episodes come from.
        meta_test: where the test episodes come from.
        device: `"auto"`, `"cpu"` or `"gpu"`, the same for both.
        progress: show progress bars, with the time left.
        announce: called with the seconds that all will take, roughly, before the long part; a few meta-steps are
            measured for it. `None` measures nothing.

    Raises:
        ModuleNotFoundError: if a framework is missing; the message names the extra.
        FloatingPointError: if a meta-loss is NaN or infinite.
    """
    check_instance(run, RunConfig, "run")
    check_instance(meta_train, MetaDataset, "meta_train")
    check_instance(meta_test, MetaDataset, "meta_test")
    device = _common_device(device)
    doubles = {name: load_backend(name, device, "float64") for name in NAMES}
    singles = {name: load_backend(name, device, "float32") for name in NAMES}
    show = progress_bar if progress else no_progress
    initial = initial_parameters(run.layers, run.seed)

    first_batch = meta_train.episodes(range(run.meta_batch_size), run.seed)
    if announce is not None:
        announce(_estimate(run, doubles, singles, initial, first_batch))
    learners = {name: doubles[name].learner(run, initial) for name in NAMES}
    gradients = _Gradients(run, doubles, first_batch, show)
    gradient = gradients.measure(initial)
    episodes, trajectory = _run_side_by_side(run, meta_train, doubles, learners, show)
    after = gradients.relative_error(learners[NAMES[0]].parameters())
    if after > gradient.max_relative_error:
        gradient = replace(gradient, max_relative_error=after, worst_point="after")
    trained = {name: _train(run, singles[name], initial, meta_train, meta_test, show) for name in NAMES}
    return Comparison(
        run=run,
        limits=LIMITS[run.model.name],
        episodes=episodes,
        meta_gradient=gradient,
        trajectory=trajectory,
        backends={name: training for name, (training, _) in trained.items()},
        manifest=make_manifest(run, meta_train, meta_test),
        example={name: singles[name].to_numpy(singles[name].receive(first_batch)) for name in NAMES},
        curves=_adaptation_curves(run, meta_test, singles, {name: learner for name, (_, learner) in trained.items()}),
        class_names=_class_names(meta_train, first_batch),
    )


def _common_device(device: str) -> str:
    """`"auto"` is a GPU if both frameworks see one: the speed of a GPU against that of a CPU says nothing."""
    if device != "auto":
        return device
    return "cpu" if any(load_backend(name, "auto", "float32").device == "cpu" for name in NAMES) else "gpu"


def _estimate(
    run: RunConfig,
    doubles: dict[str, Backend],
    singles: dict[str, Backend],
    initial: Parameters,
    batch: EpisodeBatch,
) -> float:
    """Seconds that a comparison takes, roughly, from a few meta-steps of each backend.

    Their learners are thrown away. The meta-steps compiled here are not compiled again.
    """
    algorithm, total = run.algorithm, 0.0
    gradients = 1 + algorithm.has_second_order + algorithm.follows_gradient + 2 * algorithm.omits_second_order
    qualities = _shown_steps(run)
    inner = sum(1 + steps for steps in qualities) / (1 + algorithm.inner_steps)
    for name in NAMES:
        first, step = _step_seconds(name, doubles[name].learner(run, initial), doubles[name].receive(batch))
        # Gradients of several orders, each compiled; losses for finite differences; the run.
        total += gradients * first + 4 * _DIRECTIONS * step + run.steps * step
        first, step = _step_seconds(name, singles[name].learner(run, initial), singles[name].receive(batch))
        # The run; predictions after several numbers of inner steps, compiled in less time than a gradient.
        total += run.steps * step + len(qualities) * (first - step) / 3
        total += step * inner * run.test_episodes / run.meta_batch_size
    return total


def _step_seconds(name: str, learner: Learner, data: Any) -> tuple[float, float]:
    """Seconds of the first meta-step, which compiles, and of the next one."""
    times = []
    for _ in range(2):
        started = time.perf_counter()
        _named(name, float, learner.step(data))
        times.append(time.perf_counter() - started)
    return times[0], times[1]


class _Gradients:
    """Meta-gradients of the first meta-batch, in float64, at given parameters."""

    def __init__(self, run: RunConfig, backends: dict[str, Backend], batch: EpisodeBatch, show: Progress) -> None:
        self.run = run
        self.backends = backends
        self.batches = {name: backend.receive(batch) for name, backend in backends.items()}
        self.show = show

    def measure(self, parameters: Parameters) -> MetaGradient:
        """All that the algorithm's record allows to ask of the meta-gradients at these parameters."""
        algorithm = self.run.algorithm.at_step(0)
        exact = {name: np.asarray(array, np.float64) for name, array in parameters.items()}
        found = MetaGradient(0.0, "before")
        gradients = {}
        for name in self.show(NAMES, "meta-gradients, float64", len(NAMES)):
            learner = self.backends[name].learner(self.run, exact)
            loss, gradient = learner.meta_gradient(self.batches[name])
            gradients[name] = gradient
            _named(name, check_finite, loss, 0)
            if algorithm.follows_gradient:
                error = _finite_difference_error(learner, self.batches[name], exact, gradient)
                found.finite_difference_errors[name] = error
            if algorithm.has_second_order:
                first_order = self._gradient(name, algorithm.without_second_order(), exact)
                found.second_order_shares[name] = relative_difference(first_order, gradient)
            if algorithm.omits_second_order:
                exactly = algorithm.with_second_order()
                found.omitted_shares[name] = relative_difference(gradient, self._gradient(name, exactly, exact))
                first_order = self._gradient(name, exactly.without_second_order(), exact)
                found.first_order_errors[name] = relative_difference(gradient, first_order)
        found.max_relative_error = relative_difference(gradients[NAMES[0]], gradients[NAMES[1]])
        return found

    def _gradient(self, name: str, algorithm: AlgorithmConfig, parameters: Parameters) -> Parameters:
        """The meta-gradient of another algorithm in one backend."""
        learner = self.backends[name].learner(replace(self.run, algorithm=algorithm), parameters)
        return learner.meta_gradient(self.batches[name])[1]

    def relative_error(self, parameters: Parameters) -> float:
        """‖torch − jax‖ / ‖jax‖ at these parameters."""
        first, second = (
            self.backends[name].learner(self.run, parameters).meta_gradient(self.batches[name])[1] for name in NAMES
        )
        return relative_difference(first, second)


def _finite_difference_error(learner: Learner, batch: Any, at: Parameters, gradient: Parameters) -> float:
    """The largest error of `gradient` along a few random directions."""

    def loss(point: Parameters) -> float:
        return learner.loss_at(point, batch)

    directions = [random_direction(at, number) for number in range(_DIRECTIONS)]
    return max(central_difference_error(loss, at, gradient, direction) for direction in directions)


def _run_side_by_side(
    run: RunConfig,
    meta_train: MetaDataset,
    backends: dict[str, Backend],
    learners: dict[str, Learner],
    show: Progress,
) -> tuple[Episodes, Trajectory]:
    """Both float64 runs, meta-step by meta-step, on the same batches; every batch that arrives is checked."""
    check = _EpisodeCheck()
    losses: dict[str, list[float]] = {name: [] for name in NAMES}
    sent = EpisodeLoader(meta_train, run.meta_batch_size, run.steps, run.seed)
    feeds = [backends[name].feed(copy.copy(sent)) for name in NAMES]
    for batch, *received in show(zip(sent, *feeds, strict=True), "two runs side by side, float64", run.steps):
        arrived = dict(zip(NAMES, received, strict=True))
        check.add(batch, {name: backends[name].to_numpy(data) for name, data in arrived.items()})
        for name in NAMES:
            losses[name].append(_named(name, float, learners[name].step(arrived[name])))
    difference = relative_difference(learners[NAMES[0]].parameters(), learners[NAMES[1]].parameters())
    return check.result(), Trajectory({name: np.array(values) for name, values in losses.items()}, difference)


def _named(name: str, call: Callable[..., float], *arguments: Any) -> float:
    """The result of a call; a `FloatingPointError` gets the name of the backend."""
    try:
        return call(*arguments)
    except FloatingPointError as error:
        raise FloatingPointError(f"{name}: {error}") from None


class _EpisodeCheck:
    """Counts and hashes the episodes that were sent and received."""

    def __init__(self) -> None:
        self.episodes = Episodes()
        self._sent = Digest()
        self._received = {name: Digest() for name in NAMES}

    def add(self, sent: EpisodeBatch, received: dict[str, dict[str, Any]]) -> None:
        self._sent.add(sent.digest())
        intact = np.ones(len(sent.plan), dtype=bool)
        for name, arrays in received.items():
            same = identical_episodes(sent, arrays)
            if not same.all() and self.episodes.first_different is None:
                self.episodes.first_different = (int(sent.plan.indices[np.argmin(same)]), name)
            self.episodes.damaged[name] += int((~same).sum())
            intact &= same
            self._received[name].add(arrays_digest(_in_dtypes_of(sent, arrays)))
        self.episodes.total += len(intact)
        self.episodes.identical += int(intact.sum())

    def result(self) -> Episodes:
        self.episodes.digest = self._sent.hexadecimal()
        self.episodes.received_digests = {name: digest.hexadecimal() for name, digest in self._received.items()}
        return self.episodes


def _in_dtypes_of(sent: EpisodeBatch, received: dict[str, Any]) -> dict[str, tuple[npt.NDArray[Any], ...]]:
    """float64 arrays as the float32 they were made from, so that equal episodes have equal digests."""
    return {
        name: tuple(array.astype(expected.dtype) for array, expected in zip(received[name], sent[name], strict=True))
        for name in sent
    }


def _train(
    run: RunConfig,
    backend: Backend,
    initial: Parameters,
    meta_train: MetaDataset,
    meta_test: MetaDataset,
    show: Progress,
) -> tuple[Training, Learner]:
    """One backend's float32 run: losses, time per meta-step, and quality on test episodes."""
    learner = backend.learner(run, initial)
    losses, times = [], []
    loader = EpisodeLoader(meta_train, run.meta_batch_size, run.steps, run.seed)
    for data in show(backend.feed(loader), f"{backend.name}, float32", run.steps):
        started = time.perf_counter()
        losses.append(_named(backend.name, float, learner.step(data)))
        times.append(time.perf_counter() - started)
    training = Training(
        version=backend.version,
        device=backend.device,
        losses=np.array(losses),
        meta_step_ms=1000 * float(np.median(times[1:])) if len(times) > 1 else None,
        inner_steps=run.algorithm.inner_steps,
        evaluations=_test(run, backend, learner, meta_test, show),
        parameters=learner.parameters(),
    )
    return training, learner


def _test(
    run: RunConfig, backend: Backend, learner: Learner, meta_test: MetaDataset, show: Progress
) -> dict[int, Evaluation]:
    """Number of inner steps → quality of the test episodes after them."""
    loader = evaluation_loader(meta_test, run.test_episodes, run.meta_batch_size, run.seed)
    values: dict[int, list[npt.NDArray[np.float64]]] = {steps: [] for steps in _shown_steps(run)}
    for data in show(backend.feed(loader), f"{backend.name}, test episodes", len(loader)):
        for steps, batches in values.items():
            batches.append(learner.evaluate(data, steps if run.algorithm.has_inner_steps else None))
    measure = "mean squared error" if run.episode.ways is None else "accuracy"
    return {steps: Evaluation.of(batches, run.test_episodes, measure) for steps, batches in values.items()}


def _shown_steps(run: RunConfig) -> list[int]:
    """The numbers of inner steps whose quality is measured: none, one, the run's own and twice that.

    Where adaptation is drawn as curves, before it and after it suffice.
    """
    own = run.algorithm.inner_steps
    if not own:
        return [0]
    return [0, own] if run.episode.ways is None else sorted({0, 1, own, 2 * own})


def _class_names(dataset: MetaDataset, batch: EpisodeBatch) -> tuple[str, ...]:
    if not isinstance(dataset, CombinationMetaDataset):
        return ()
    return tuple(map(dataset.class_name, batch.plan.classes[0].tolist()))


def _adaptation_curves(
    run: RunConfig, meta_test: MetaDataset, backends: dict[str, Backend], learners: dict[str, Learner]
) -> AdaptationCurves | None:
    if not isinstance(meta_test, ToyMetaDataset) or not run.algorithm.has_inner_steps:
        return None
    batch = meta_test.episodes(range(_CURVE_TASKS), run.seed)
    points = np.concatenate([inputs[..., 0] for inputs, _ in batch.values()], axis=1, dtype=np.float64)
    grid = np.linspace(points.min(axis=1), points.max(axis=1), _CURVE_POINTS, axis=1)
    targets = meta_test.evaluate(batch.plan.classes[:, 0], grid)
    asked = EpisodeBatch(
        batch.plan,
        {"train": batch["train"], "test": (grid[..., None].astype(np.float32), targets[..., None].astype(np.float32))},
    )
    own = run.algorithm.inner_steps
    steps = (0, own, max(own, 10))
    predictions = {
        name: {step: learners[name].predict(backends[name].receive(asked), step)[..., 0] for step in steps}
        for name in NAMES
    }
    support = (batch["train"][0][..., 0], batch["train"][1][..., 0])
    return AdaptationCurves(grid, targets, support, own, predictions)
