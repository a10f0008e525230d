"""The main job: the same meta-training in two backends, on the same episodes, from the same parameters.

Agreement is measured in float64: the episodes that arrived, the meta-gradients (against each other, against
finite differences and against the first-order gradient) and two whole runs side by side. Speed and quality are
measured in float32, one backend after the other. The records of `metabridge.comparison.findings` hold the results.
"""

import copy
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from metabridge.backends import Backend, Learner, load_backend
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
from metabridge.episodes.metadatasets import MetaDataset
from metabridge.networks.parameters import Parameters, initial_parameters, relative_difference
from metabridge.runs.losses import check_finite
from metabridge.runs.manifests import make_manifest
from metabridge.runs.statistics import mean_and_ci95
from metabridge.toy import ToyMetaDataset

__all__ = ["compare"]

TEST_EPISODES = 200
_DIRECTIONS = 2
_CURVE_TASKS = 4
_CURVE_POINTS = 241

T = TypeVar("T")
Progress = Callable[[Iterable[T], str, int], Iterable[T]]


def compare(
    run: RunConfig,
    meta_train: MetaDataset,
    meta_test: MetaDataset,
    device: str = "auto",
    progress: bool = True,
) -> Comparison:
    """Run the same meta-training in PyTorch and in JAX and measure how far they agree.

    Args:
        run: the run's configuration.
        meta_train: where the training episodes come from.
        meta_test: where the test episodes come from.
        device: `"auto"`, `"cpu"` or `"gpu"`, the same for both.
        progress: show progress bars.

    Raises:
        ModuleNotFoundError: if a framework is missing; the message names the extra.
        FloatingPointError: if a meta-loss is NaN or infinite.
    """
    device = _common_device(device)
    doubles = {name: load_backend(name, device, "float64") for name in NAMES}
    singles = {name: load_backend(name, device, "float32") for name in NAMES}
    show = _progress_bar if progress else _no_progress
    initial = initial_parameters(run.layers, run.seed)

    first_batch = meta_train.episodes(range(run.meta_batch_size), run.seed)
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
    )


def _common_device(device: str) -> str:
    """`"auto"` is a GPU if both frameworks see one: the speed of a GPU against that of a CPU says nothing."""
    if device != "auto":
        return device
    return "cpu" if any(load_backend(name, "auto", "float32").device == "cpu" for name in NAMES) else "gpu"


def _progress_bar(items: Iterable[T], label: str, total: int) -> Iterable[T]:
    from tqdm.auto import tqdm

    seconds = 0.1 if sys.stderr.isatty() else 10  # a log keeps every update
    bar: Iterable[T] = tqdm(items, desc=f"{label:<34}", total=total, mininterval=seconds, dynamic_ncols=True)
    return bar


def _no_progress(items: Iterable[T], label: str, total: int) -> Iterable[T]:
    del label, total
    return items


class _Gradients:
    """Meta-gradients of the first meta-batch, in float64, at given parameters."""

    def __init__(self, run: RunConfig, backends: dict[str, Backend], batch: EpisodeBatch, show: Progress[Any]) -> None:
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
    show: Progress[Any],
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
    show: Progress[Any],
) -> tuple[Training, Learner]:
    """One backend's float32 run: losses, time per meta-step, and quality on test episodes."""
    learner = backend.learner(run, initial)
    losses, times = [], []
    loader = EpisodeLoader(meta_train, run.meta_batch_size, run.steps, run.seed)
    for data in show(backend.feed(loader), f"{backend.name}, float32", run.steps):
        started = time.perf_counter()
        losses.append(_named(backend.name, float, learner.step(data)))
        times.append(time.perf_counter() - started)
    after, before = _test(run, backend, learner, meta_test, show)
    quality, half_width = mean_and_ci95(after)
    training = Training(
        version=backend.version,
        device=backend.device,
        losses=np.array(losses),
        meta_step_ms=1000 * float(np.median(times[1:])) if len(times) > 1 else None,
        quality=quality,
        quality_ci95=half_width,
        quality_before=float(before.mean()) if len(before) else None,
        parameters=learner.parameters(),
    )
    return training, learner


def _test(
    run: RunConfig, backend: Backend, learner: Learner, meta_test: MetaDataset, show: Progress[Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """`(episodes,)` quality of each test episode after adaptation, and before it where there are inner steps."""
    batches = -(-TEST_EPISODES // run.meta_batch_size)
    loader = EpisodeLoader(meta_test, run.meta_batch_size, batches, run.seed)
    after, before = [], [np.zeros(0)]
    for data in show(backend.feed(loader), f"{backend.name}, test episodes", batches):
        after.append(learner.evaluate(data))
        if run.algorithm.has_inner_steps:
            before.append(learner.evaluate(data, inner_steps=0))
    return np.concatenate(after)[:TEST_EPISODES], np.concatenate(before)[:TEST_EPISODES]


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
