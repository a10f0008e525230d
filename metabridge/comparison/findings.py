"""The findings of a comparison of two backends: records, verdict, `compare.json`."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.comparison.measures import Limits
from metabridge.configs import RunConfig
from metabridge.networks.parameters import Parameters
from metabridge.runs.evaluation import Evaluation

__all__ = ["NAMES", "AdaptationCurves", "Comparison", "Episodes", "MetaGradient", "Training", "Trajectory"]

NAMES = ("torch", "jax")


@dataclass
class Episodes:
    """Episodes as they arrived in the backends.

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
        worst_point: `"before"` or `"after"`.
        finite_difference_errors: backend → error against central differences of its own meta-loss; empty where the
            algorithm's update is not that gradient.
        second_order_shares: backend → ‖g − g_first_order‖ / ‖g‖; empty where the algorithm has no second derivatives.
        omitted_shares: backend → ‖g − g_second_order‖ / ‖g_second_order‖; empty where the algorithm leaves no second
            derivatives out.
        first_order_errors: backend → ‖g − g_first_order‖ / ‖g_first_order‖, with the gradient of the algorithm of
            second order without its second derivatives; empty where `omitted_shares` is.
    """

    max_relative_error: float
    worst_point: str
    finite_difference_errors: dict[str, float] = field(default_factory=dict)
    second_order_shares: dict[str, float] = field(default_factory=dict)
    omitted_shares: dict[str, float] = field(default_factory=dict)
    first_order_errors: dict[str, float] = field(default_factory=dict)

    @property
    def finite_difference_error(self) -> float | None:
        """The larger error of both backends, `None` if there is none."""
        return max(self.finite_difference_errors.values(), default=None)

    @property
    def second_order_share(self) -> float | None:
        """The smaller share of both backends, `None` if there is none."""
        return min(self.second_order_shares.values(), default=None)

    @property
    def omitted_share(self) -> float | None:
        """The smaller share of both backends, `None` if there is none."""
        return min(self.omitted_shares.values(), default=None)

    @property
    def first_order_error(self) -> float | None:
        """The larger error of both backends, `None` if there is none."""
        return max(self.first_order_errors.values(), default=None)


@dataclass
class Trajectory:
    """Two float64 runs, step by step.

    Attributes:
        losses: backend → `(steps,)` meta-loss before each step.
        max_relative_parameter_difference: ‖torch − jax‖ / ‖jax‖ of all parameters after the last step.
    """

    losses: dict[str, npt.NDArray[np.float64]]
    max_relative_parameter_difference: float

    @property
    def differences(self) -> npt.NDArray[np.float64]:
        """`(steps,)` absolute differences of the losses."""
        return np.abs(self.losses[NAMES[0]] - self.losses[NAMES[1]])

    @property
    def scaled_differences(self) -> npt.NDArray[np.float64]:
        """`(steps,)` differences of the losses, relative where losses exceed 1, as rounding is; the limit is theirs."""
        return self.differences / np.maximum(1, np.abs(self.losses[NAMES[1]]))


@dataclass
class Training:
    """One backend's float32 run.

    Attributes:
        version: version of the framework.
        device: the device in words.
        losses: `(steps,)` meta-loss before each step.
        meta_step_ms: median time of a meta-step without the first, which compiles; `None` if that was the only one.
        inner_steps: the run's own number of inner steps; 0 where the algorithm has none.
        evaluations: number of inner steps → quality on the test episodes: accuracy, or mean squared error.
        parameters: after the run, neutral.
    """

    version: str
    device: str
    losses: npt.NDArray[np.float64]
    meta_step_ms: float | None
    inner_steps: int
    evaluations: dict[int, Evaluation]
    parameters: Parameters

    @property
    def quality(self) -> float:
        """Mean quality after adaptation."""
        return self.evaluations[self.inner_steps].mean

    @property
    def quality_ci95(self) -> float:
        """Half-width of its 95 % confidence interval."""
        return self.evaluations[self.inner_steps].ci95

    @property
    def quality_before(self) -> float | None:
        """Mean quality without adaptation, `None` where the algorithm has no inner steps."""
        return self.evaluations[0].mean if self.inner_steps else None


@dataclass
class AdaptationCurves:
    """Predictions of the trained networks on a few one-dimensional test tasks, from a task's first input to its last.

    Attributes:
        inputs: `(tasks, points)`.
        targets: `(tasks, points)` without noise.
        support: `(inputs, targets)`, both `(tasks, shots)`.
        inner_steps: of the run; one of those in `predictions`.
        predictions: backend → number of inner steps → `(tasks, points)`.
    """

    inputs: npt.NDArray[np.float64]
    targets: npt.NDArray[np.float64]
    support: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
    inner_steps: int
    predictions: dict[str, dict[int, npt.NDArray[np.floating]]]


@dataclass
class Comparison:
    """Everything a comparison found; `metabridge.reports.comparison` writes it down.

    Attributes:
        run: the configuration.
        limits: the largest differences that count as agreement.
        example: the first meta-train batch as each backend received it, in the core's layout.
        class_names: names of the classes of its first episode, in the order of its examples; empty for a regression.
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
    curves: AdaptationCurves | None
    class_names: tuple[str, ...] = ()

    def disagreements(self) -> list[str]:
        """One sentence for each difference: what differs, where first, by how much; empty if the backends agree."""
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
        for name, error in gradient.finite_difference_errors.items():
            if not error <= limits.finite_difference:
                found.append(
                    f"The meta-gradient of {name} differs from finite differences by {error:.2e}, "
                    f"more than {limits.finite_difference:g}."
                )
        for name, share in gradient.second_order_shares.items():
            if not share >= limits.second_order_share:
                cause = self._cause("the second derivatives are missing")
                found.append(f"The meta-gradient of {name} is the first-order one up to {share:.2e}: {cause}.")
        for name, share in gradient.omitted_shares.items():
            if not share >= limits.second_order_share:
                cause = self._cause("the second derivatives are not left out")
                found.append(f"The meta-gradient of {name} is the second-order one up to {share:.2e}: {cause}.")
        for name, error in gradient.first_order_errors.items():
            if not error <= limits.meta_gradient:
                found.append(
                    f"The meta-gradient of {name} differs from the first-order one by a relative {error:.2e}, "
                    f"more than {limits.meta_gradient:g}."
                )
        scaled = self.trajectory.scaled_differences
        beyond = np.flatnonzero(~(scaled <= limits.loss_difference))
        if len(beyond):
            found.append(
                f"Losses differ from meta-step {beyond[0]} on: there by {scaled[beyond[0]]:.2e}, at most by "
                f"{scaled.max():.2e} (relative where they exceed 1), more than {limits.loss_difference:g}."
            )
        return found

    def _cause(self, claim: str) -> str:
        """The claim of two orders that do not differ, or the inner learning rate that hides how they do."""
        rate = getattr(self.run.algorithm, "inner_lr", math.inf)
        if rate > self.limits.second_order_share:
            return claim
        return f"an inner learning rate of {rate:g} is too small for second derivatives to show; raise it"

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
                "omitted_share": self.meta_gradient.omitted_share,
                "first_order_error": self.meta_gradient.first_order_error,
            },
            "trajectory": {
                "steps": len(trajectory.differences),
                "max_abs_loss_difference": float(trajectory.differences.max()),
                "max_scaled_loss_difference": float(trajectory.scaled_differences.max()),
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
                    "quality_by_inner_steps": {
                        str(steps): {"mean": found.mean, "ci95": found.ci95}
                        for steps, found in training.evaluations.items()
                    },
                    "losses": training.losses.tolist(),
                }
                for name, training in self.backends.items()
            },
            "quality_is": self.quality_name,
            "test_episodes": self.run.test_episodes,
            "limits": asdict(self.limits),
            "manifest": self.manifest,
        }

    @property
    def quality_name(self) -> str:
        """The measure behind `quality`."""
        return "mean squared error" if self.run.episode.ways is None else "accuracy"
