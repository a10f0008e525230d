"""The meta-loss of a step, read lazily, and the refusal of a step that is not finite."""

import math
from typing import Any, NamedTuple

__all__ = ["Attempt", "StepCounter", "StepLoss", "check_finite"]


def check_finite(loss: float, step: int, gradient: float = 0.0, update: float = 0.0) -> float:
    """`loss` itself; raise `FloatingPointError` if a number of a meta-step is NaN or infinite.

    Args:
        loss: the meta-loss.
        step: meta-steps done before it.
        gradient: the largest absolute entry of the meta-gradient.
        update: the largest absolute entry of the parameters and of the optimiser's state after the step.
    """
    advice = "Lower the inner or the outer learning rate"
    if not math.isfinite(loss):
        found = f"the meta-loss is {loss} at meta-step {step}"
    elif not math.isfinite(gradient):
        found = f"the meta-gradient holds {gradient} at meta-step {step}, where the meta-loss is {loss:g}"
        advice += ", or look for an operation without a finite derivative, such as the root of 0"
    elif not math.isfinite(update):
        found = f"the outer optimiser makes {update} of a finite meta-gradient at meta-step {step}"
        advice = "Lower the outer learning rate, or clip the meta-gradient"
    else:
        return loss
    raise FloatingPointError(f"{found}; the parameters are those before it. {advice}.")


class Attempt(NamedTuple):
    """One attempt at a meta-step, on the device.

    Attributes:
        step: meta-steps done before it, an integer scalar.
        numbers: `(3,)`: the meta-loss, the largest absolute entry of the meta-gradient, and that of the parameters and
            the optimiser's state after the step. An attempt with a number that is not finite is refused.
    """

    step: Any
    numbers: Any

    def check(self) -> float:
        """The meta-loss; raise `FloatingPointError` if the attempt was refused."""
        loss, gradient, update = self.numbers.tolist()
        return check_finite(loss, int(self.step), gradient, update)


class StepCounter:
    """The meta-steps of a learner: how many were done and refused, and how many refusals a reader knows.

    Counts of done and refused steps stay on the device until someone looks, so that steps need not wait for it.

    Args:
        steps_done: meta-steps done before.
        done: the same as an integer scalar on the device.
        refused: any attempt, in the place of the last refused one.

    Attributes:
        done: meta-steps done, on the device.
        refused: the last refused attempt, on the device.
        attempts: meta-steps done before and attempted since, known without waiting for the device.
    """

    def __init__(self, steps_done: int, done: Any, refused: Attempt) -> None:
        self.done = done
        self.refused = refused
        self.attempts = steps_done
        self._known = 0

    @property
    def steps_done(self) -> int:
        """Meta-steps done; refused ones do not count."""
        return int(self.done)

    def add(self, attempt: Attempt, done: Any, refused: Attempt) -> "StepLoss":
        """Count an attempt.

        Args:
            attempt: what was attempted.
            done: meta-steps done, with this one if it was not refused.
            refused: the last refused attempt, which may be this one.
        """
        self.done, self.refused = done, refused
        self.attempts += 1
        return StepLoss(attempt, self)

    def acknowledge(self) -> None:
        """A reader learned of one more refusal."""
        self._known += 1

    def check(self) -> None:
        """Raise `FloatingPointError` if a step was refused and its loss has not been read."""
        refusals = self.attempts - self.steps_done
        if refusals <= self._known:
            return
        try:
            self.refused.check()
        except FloatingPointError as error:
            if refusals == 1:
                raise
            unread = refusals - self._known
            raise FloatingPointError(
                f"of {refusals} refused meta-steps {unread} were not read; of the last refused one: {error}"
            ) from None


class StepLoss:
    """The meta-loss before a meta-step, as a number that is read lazily.

    `float(loss)` waits for the device; until then steps may follow each other without waiting. A step whose loss,
    gradient or update is NaN or infinite changes nothing, and reading its loss raises `FloatingPointError`.

    Args:
        attempt: the step on the device.
        counter: learns, once, that a reader knows of the refusal. A learner that goes on from a state has a new
            counter, which losses from before do not touch.
    """

    def __init__(self, attempt: Attempt, counter: StepCounter) -> None:
        self._attempt = attempt
        self._counter: StepCounter | None = counter

    @property
    def step(self) -> int:
        """Meta-steps done before it."""
        return int(self._attempt.step)

    def __float__(self) -> float:
        try:
            return self._attempt.check()
        except FloatingPointError:
            if self._counter is not None:
                self._counter.acknowledge()
                self._counter = None
            raise

    def __format__(self, spec: str) -> str:
        return format(float(self), spec)

    def __repr__(self) -> str:
        return f"StepLoss({self._attempt.numbers.tolist()[0]!r} at meta-step {self.step})"
