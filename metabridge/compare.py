"""The main job: the same meta-training in two backends, on the same episodes, from the same parameters.

Agreement is measured in float64: the episodes that arrived, the meta-gradients (against each other, against
finite differences and against the first-order gradient) and two whole runs side by side. Speed and quality are
measured in float32, one backend after the other.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from metabridge.agreement import LIMITS, Limits, central_difference_error, identical_episodes, random_direction
from metabridge.backends import Backend, Learner, check_finite, load_backend
from metabridge.batches import EpisodeBatch, arrays_digest
from metabridge.configs import RunConfig
from metabridge.loader import EpisodeLoader
from metabridge.manifests import make_manifest
from metabridge.metadatasets import MetaDataset
from metabridge.metrics import mean_and_ci95
from metabridge.parameters import Parameters, initial_parameters, relative_difference

__all__ = ["NAMES", "Comparison", "compare"]

NAMES = ("torch", "jax")
TEST_EPISODES = 200
_DIRECTIONS = 2

T = TypeVar("T")
Progress = Callable[[Iterable[T], str], Iterable[T]]


@dataclass
class Episodes:
    """What arrived in the backends.

    Attributes:
        total: episodes sent to both.
        identical: episodes that both received bit for bit.
        damaged: backend → episodes that it received with other bits.
        digest: BLAKE2b over all episodes sent.
        received_digests: backend → the same over all episodes it received.
        first_different: index of the first episode that did not arrive intact, and in which backend.
    """

    total: int = 0
    identical: int = 0
    digest: str = ""
    damaged: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    received_digests: dict[str, str] = field(default_factory=dict)
    first_different: tuple[int, str] | None = None


@dataclass
class MetaGradient:
    """The two meta-gradients in float64.

    Attributes:
        max_relative_error: ‖torch − jax‖ / ‖jax‖, the larger of before and after the run.
        worst_point: which of the two that was.
        finite_difference_errors: backend → error against central differences of its own objective.
        second_order_shares: backend → ‖g − g_first_order‖ / ‖g‖.
    """

    max_relative_error: float
    worst_point: str
    finite_difference_errors: dict[str, float]
    second_order_shares: dict[str, float]

    @property
    def finite_difference_error(self) -> float:
        """The larger of both."""
        return max(self.finite_difference_errors.values())

    @property
    def second_order_share(self) -> float:
        """The smaller of both."""
        return min(self.second_order_shares.values())


@dataclass
class Trajectory:
    """Two float64 runs, step by step.

    Attributes:
        losses: backend → `(steps,)` meta-objective before each step.
        max_relative_parameter_difference: ‖torch − jax‖ / ‖jax‖ of all parameters after the last step.
    """

    losses: dict[str, npt.NDArray[np.float64]]
    max_relative_parameter_difference: float

    @property
    def differences(self) -> npt.NDArray[np.float64]:
        """`(steps,)` absolute differences of the losses."""
        return np.abs(self.losses[NAMES[0]] - self.losses[NAMES[1]])


@dataclass
class Training:
    """One backend's float32 run.

    Attributes:
        version: of the framework.
        device: what computed.
        losses: `(steps,)` meta-objective before each step.
        meta_step_ms: median time of a meta-step without the first, which compiles; `None` if that was the only one.
        quality: mean over test episodes after adaptation: accuracy, or mean squared error.
        quality_ci95: half-width of its 95 % confidence interval.
        quality_before: the same mean without adaptation.
        parameters: after the run, neutral.
    """

    version: str
    device: str
    losses: npt.NDArray[np.float64]
    meta_step_ms: float | None
    quality: float
    quality_ci95: float
    quality_before: float
    parameters: Parameters


@dataclass
class Comparison:
    """Everything a comparison found; `metabridge.report` writes it down.

    Attributes:
        run: what was run.
        limits: what counts as agreement.
        example: the first meta-train batch as each backend received it, in the core's layout.
        curves: for a regression in one dimension, predictions on test tasks (see `AdaptationCurves`).
    """

    run: RunConfig
    limits: Limits
    episodes: Episodes
    meta_gradient: MetaGradient
    trajectory: Trajectory
    backends: dict[str, Training]
    manifest: dict[str, Any]
    example: dict[str, dict[str, Any]]
    curves: "AdaptationCurves | None"

    def disagreements(self) -> list[str]:
        """Sentences that say what differs, where first and by how much; empty if the backends agree."""
        episodes, gradient, limits = self.episodes, self.meta_gradient, self.limits
        found = []
        if episodes.first_different is not None:
            index, name = episodes.first_different
            found.append(
                f"Episodes differ: {name} received {episodes.damaged[name]} of {episodes.total} episodes "
                f"with other bits than were sent, the first at index {index}."
            )
        if not gradient.max_relative_error <= limits.meta_gradient:
            found.append(
                f"Meta-gradients differ {gradient.worst_point} the run by a relative "
                f"{gradient.max_relative_error:.2e}, more than {limits.meta_gradient:g}."
            )
        for name in NAMES:
            error, share = gradient.finite_difference_errors[name], gradient.second_order_shares[name]
            if not error <= limits.finite_difference:
                found.append(
                    f"The meta-gradient of {name} differs from finite differences by {error:.2e}, "
                    f"more than {limits.finite_difference:g}."
                )
            if not share >= limits.second_order_share:
                found.append(
                    f"The meta-gradient of {name} is the first-order one up to {share:.2e}: "
                    "the second derivatives are missing."
                )
        # Relative where losses are large: rounding is.
        scale = np.maximum(1, np.abs(self.trajectory.losses[NAMES[1]]))
        beyond = np.flatnonzero(~(self.trajectory.differences <= limits.loss_difference * scale))
        if len(beyond):
            found.append(
                f"Losses differ from meta-step {beyond[0]} on: there by {self.trajectory.differences[beyond[0]]:.2e}, "
                f"at most by {self.trajectory.differences.max():.2e}, more than {limits.loss_difference:g}."
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """The content of `compare.json`."""
        trajectory = self.trajectory
        return {
            "agrees": not self.disagreements(),
            "disagreements": self.disagreements(),
            "episodes": {
                "total": self.episodes.total,
                "identical": self.episodes.identical,
                "digest": self.episodes.digest,
                "received_digests": self.episodes.received_digests,
            },
            "meta_gradient": {
                "max_relative_error": self.meta_gradient.max_relative_error,
                "finite_difference_error": self.meta_gradient.finite_difference_error,
                "second_order_share": self.meta_gradient.second_order_share,
            },
            "trajectory": {
                "steps": len(trajectory.differences),
                "max_abs_loss_difference": float(trajectory.differences.max()),
                "max_relative_parameter_difference": trajectory.max_relative_parameter_difference,
                "losses": {name: losses.tolist() for name, losses in trajectory.losses.items()},
            },
            "backends": {
                name: {
                    "version": training.version,
                    "device": training.device,
                    "meta_step_ms": training.meta_step_ms,
                    "quality": training.quality,
                    "quality_ci95": training.quality_ci95,
                    "quality_before": training.quality_before,
                    "losses": training.losses.tolist(),
                }
                for name, training in self.backends.items()
            },
            "quality_is": self.quality_name,
            "limits": asdict(self.limits),
            "manifest": self.manifest,
        }

    @property
    def quality_name(self) -> str:
        """What `quality` measures."""
        return "mean squared error" if self.run.episode.ways is None else "accuracy"


def compare(
    run: RunConfig,
    meta_train: MetaDataset,
    meta_test: MetaDataset,
    device: str = "auto",
    progress: bool = True,
    parameters: Parameters | None = None,
) -> Comparison:
    """Run the same meta-training in PyTorch and in JAX and measure how far they agree.

    Args:
        run: what to run.
        meta_train: where the training episodes come from.
        meta_test: where the test episodes come from.
        device: `"auto"`, `"cpu"` or `"gpu"`, the same for both.
        progress: show progress bars.
        parameters: initial neutral parameters; `None` draws them from the run's seed.

    Raises:
        ModuleNotFoundError: if a framework is missing; the message names the extra.
        FloatingPointError: if a meta-objective is NaN or infinite.
    """
    device = _common_device(device)
    doubles = {name: load_backend(name, device, "float64") for name in NAMES}
    singles = {name: load_backend(name, device, "float32") for name in NAMES}
    show = _progress_bar if progress else _no_progress
    initial = initial_parameters(run.model, run.seed) if parameters is None else parameters

    first_batch = meta_train.episodes(range(run.meta_batch_size), run.seed)
    learners = {name: doubles[name].learner(run, initial) for name in NAMES}
    gradients = _Gradients(run, doubles, first_batch, show)
    before, differences, share = gradients.measure(initial)
    episodes, trajectory = _run_side_by_side(run, meta_train, doubles, learners, show)
    after = gradients.relative_error(learners[NAMES[0]].parameters())
    trained = {name: _train(run, singles[name], initial, meta_train, meta_test, show) for name in NAMES}
    return Comparison(
        run=run,
        limits=LIMITS[run.model.name],
        episodes=episodes,
        meta_gradient=MetaGradient(max(before, after), "before" if before >= after else "after", differences, share),
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


def _progress_bar(items: Iterable[T], label: str) -> Iterable[T]:
    from tqdm.auto import tqdm

    seconds = 0.1 if sys.stderr.isatty() else 10  # a log keeps every update
    bar: Iterable[T] = tqdm(items, desc=f"{label:<34}", mininterval=seconds, dynamic_ncols=True)
    return bar


def _no_progress(items: Iterable[T], label: str) -> Iterable[T]:
    del label
    return items


class _Gradients:
    """Meta-gradients of the first meta-batch, in float64, at given parameters."""

    def __init__(self, run: RunConfig, backends: dict[str, Backend], batch: EpisodeBatch, show: Progress[Any]) -> None:
        self.run = run
        self.backends = backends
        self.batches = {name: backend.receive(batch) for name, backend in backends.items()}
        self.show = show

    def measure(self, parameters: Parameters) -> tuple[float, dict[str, float], dict[str, float]]:
        """Relative error between the backends; finite-difference error and second-order share of each."""
        exact = {name: np.asarray(array, np.float64) for name, array in parameters.items()}
        gradients, errors, shares = {}, {}, {}
        for name in self.show(NAMES, "meta-gradients, float64"):
            learner = self.backends[name].learner(self.run, exact)
            objective, gradients[name] = learner.meta_gradient(self.batches[name])
            _named(name, check_finite, objective, 0)
            errors[name] = _finite_difference_error(learner, self.batches[name], exact, gradients[name])
            first_order = replace(self.run, algorithm=replace(self.run.algorithm, first_order=True))
            shortened = self.backends[name].learner(first_order, exact).meta_gradient(self.batches[name])[1]
            shares[name] = relative_difference(shortened, gradients[name])
        return relative_difference(gradients[NAMES[0]], gradients[NAMES[1]]), errors, shares

    def relative_error(self, parameters: Parameters) -> float:
        """‖torch − jax‖ / ‖jax‖ at these parameters."""
        first, second = (
            self.backends[name].learner(self.run, parameters).meta_gradient(self.batches[name])[1] for name in NAMES
        )
        return relative_difference(first, second)


def _finite_difference_error(learner: Learner, batch: Any, at: Parameters, gradient: Parameters) -> float:
    """The largest error of `gradient` along a few random directions."""

    def objective(point: Parameters) -> float:
        return learner.objective_at(point, batch)

    directions = [random_direction(at, number) for number in range(_DIRECTIONS)]
    return max(central_difference_error(objective, at, gradient, direction) for direction in directions)


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
    for batch in show(
        EpisodeLoader(meta_train, run.meta_batch_size, run.steps, run.seed), "two runs side by side, float64"
    ):
        received = {name: backends[name].receive(batch) for name in NAMES}
        check.add(batch, {name: backends[name].to_numpy(data) for name, data in received.items()})
        for name in NAMES:
            losses[name].append(_named(name, learners[name].step, received[name]))
    difference = relative_difference(learners[NAMES[0]].parameters(), learners[NAMES[1]].parameters())
    return check.result(), Trajectory({name: np.array(values) for name, values in losses.items()}, difference)


def _named(name: str, call: Callable[..., float], *arguments: Any) -> float:
    """Call, and let a complaint about NaN say whose it is."""
    try:
        return call(*arguments)
    except FloatingPointError as error:
        raise FloatingPointError(f"{name}: {error}") from None


class _EpisodeCheck:
    """Counts and hashes the episodes that were sent and received."""

    def __init__(self) -> None:
        self.episodes = Episodes()
        self._sent = hashlib.blake2b(digest_size=16)
        self._received = {name: hashlib.blake2b(digest_size=16) for name in NAMES}

    def add(self, sent: EpisodeBatch, received: dict[str, dict[str, Any]]) -> None:
        self._sent.update(sent.digest().encode())
        intact = np.ones(len(sent.plan), dtype=bool)
        for name, arrays in received.items():
            same = identical_episodes(sent, arrays)
            if not same.all() and self.episodes.first_different is None:
                self.episodes.first_different = (int(sent.plan.indices[np.argmin(same)]), name)
            self.episodes.damaged[name] += int((~same).sum())
            intact &= same
            self._received[name].update(arrays_digest(_in_dtypes_of(sent, arrays)).encode())
        self.episodes.total += len(intact)
        self.episodes.identical += int(intact.sum())

    def result(self) -> Episodes:
        self.episodes.digest = self._sent.hexdigest()
        self.episodes.received_digests = {name: state.hexdigest() for name, state in self._received.items()}
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
    for batch in show(EpisodeLoader(meta_train, run.meta_batch_size, run.steps, run.seed), f"{backend.name}, float32"):
        data = backend.receive(batch)
        started = time.perf_counter()
        losses.append(_named(backend.name, learner.step, data))
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
        quality_before=float(before.mean()),
        parameters=learner.parameters(),
    )
    return training, learner


def _test(
    run: RunConfig, backend: Backend, learner: Learner, meta_test: MetaDataset, show: Progress[Any]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """`(episodes,)` quality of each test episode after and before adaptation."""
    loader = EpisodeLoader(meta_test, run.meta_batch_size, -(-TEST_EPISODES // run.meta_batch_size), run.seed)
    after, before = [], []
    for batch in show(loader, f"{backend.name}, test episodes"):
        data = backend.receive(batch)
        after.append(learner.evaluate(data))
        before.append(learner.evaluate(data, inner_steps=0))
    return np.concatenate(after)[:TEST_EPISODES], np.concatenate(before)[:TEST_EPISODES]


@dataclass
class AdaptationCurves:
    """Predictions of the trained networks along the input range of a few one-dimensional test tasks.

    Attributes:
        inputs: `(points,)`.
        targets: `(tasks, points)` without noise.
        support: `(inputs, targets)`, both `(tasks, shots)`.
        predictions: backend → number of inner steps → `(tasks, points)`.
    """

    inputs: npt.NDArray[np.float64]
    targets: npt.NDArray[np.float64]
    support: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
    predictions: dict[str, dict[int, npt.NDArray[np.floating]]]


def _adaptation_curves(
    run: RunConfig, meta_test: MetaDataset, backends: dict[str, Backend], learners: dict[str, Learner], tasks: int = 4
) -> AdaptationCurves | None:
    from metabridge.toy.base import ToyMetaDataset

    if not isinstance(meta_test, ToyMetaDataset):
        return None
    batch = meta_test.episodes(range(tasks), run.seed)
    grid = np.linspace(*meta_test.parameter_ranges["input"], 121)
    inputs = np.broadcast_to(grid, (tasks, len(grid)))
    targets = meta_test.evaluate(batch.plan.classes[:, 0], inputs)
    asked = EpisodeBatch(
        batch.plan,
        {
            "train": batch["train"],
            "test": (inputs[..., None].astype(np.float32), targets[..., None].astype(np.float32)),
        },
    )
    steps = (0, run.algorithm.inner_steps, 10)
    predictions = {
        name: {step: learners[name].predict(backends[name].receive(asked), step)[..., 0] for step in steps}
        for name in NAMES
    }
    support = (batch["train"][0][..., 0], batch["train"][1][..., 0])
    return AdaptationCurves(grid, targets, support, predictions)
