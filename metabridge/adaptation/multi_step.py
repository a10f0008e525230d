"""The multi-step meta-loss of MAML++: how much the query loss after each inner step counts."""

from collections.abc import Sequence

from metabridge.checks import check_count, is_number, require

__all__ = ["check_progress", "check_weights", "multi_step_weights"]

LEAST = 0.03
"""What is left, over all steps, of the equal share of a step that is not the last."""


def multi_step_weights(steps: int, progress: float) -> tuple[float, ...]:
    """Weight of the query loss after every inner step; they add up to 1.

    All are equal at first. Those before the last one fall in proportion to `progress`, down to 3 % of where they
    began, and the last one takes what they lose: the schedule of the authors' code for Antoniou, Edwards, Storkey 2019
    (arXiv 1810.09502, section 4, equation 4).

    >>> multi_step_weights(4, 0.0)
    (0.25, 0.25, 0.25, 0.25)
    >>> multi_step_weights(4, 0.5)
    (0.125, 0.125, 0.125, 0.625)

    Args:
        steps: inner steps, at least 1.
        progress: how far the annealing is, from 0 to 1.

    Raises:
        ValueError: if `steps` or `progress` is out of range.
    """
    check_count(steps, "steps")
    check_progress(progress)
    before = max(1 - progress, LEAST) / steps
    return (before,) * (steps - 1) + (1 - (steps - 1) * before,)


def check_progress(progress: float) -> None:
    """Raise `ValueError` unless the progress of an annealing is a number from 0 to 1."""
    require(is_number(progress) and 0 <= progress <= 1, "progress", "a number from 0 to 1", progress)


def check_weights(weights: Sequence[float], steps: int) -> tuple[float, ...]:
    """Weights as a tuple; raise `ValueError` unless they are one finite number of at least 0 for every step."""
    fits = len(weights) == steps and all(is_number(weight) and weight >= 0 for weight in weights)
    advice = "make them with multi_step_weights"
    require(fits, "weights", f"{steps} finite numbers of at least 0, one for every inner step", weights, advice)
    return tuple(weights)
