"""The meta-loss of a step, read lazily, and the refusal of a step whose loss is not finite."""

import math
from typing import SupportsFloat

__all__ = ["StepLoss", "check_finite"]


def check_finite(loss: float, step: int) -> float:
    """`loss` itself; raise `FloatingPointError` if it is NaN or infinite."""
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the meta-loss is {loss} at meta-step {step}; the parameters are those before it. "
            "Lower the inner or the outer learning rate."
        )
    return loss


class StepLoss:
    """The meta-loss before a meta-step, as a number that is read lazily.

    `float(loss)` waits for the device; until then steps may follow each other without waiting. A step whose loss is
    NaN or infinite changes nothing, and reading its loss raises `FloatingPointError`.

    Args:
        value: the loss on the device.
        step: number of the meta-step.
        acknowledged: takes the number of the step, once, when a reader learns that the step was refused. A learner
            that goes on from a state has a new list, which losses from before do not touch.
    """

    def __init__(self, value: SupportsFloat, step: int, acknowledged: list[int]) -> None:
        self.step = step
        self._value = value
        self._acknowledged: list[int] | None = acknowledged

    def __float__(self) -> float:
        value = float(self._value)
        if not math.isfinite(value) and self._acknowledged is not None:
            self._acknowledged.append(self.step)
            self._acknowledged = None
        return check_finite(value, self.step)

    def __format__(self, spec: str) -> str:
        return format(float(self), spec)

    def __repr__(self) -> str:
        return f"StepLoss({float(self._value)!r} at meta-step {self.step})"
