"""The steps of an inner loop: how many there are, the value that belongs to each, the loss that it lowers."""

from collections.abc import Mapping, Sequence
from typing import Any

from metabridge.checks import check_count

__all__ = ["check_adjoint", "check_descending", "check_scalar", "check_steps", "count_steps"]


def check_steps(steps: int) -> None:
    """Raise `ValueError` unless `steps` is a count of inner steps, 0 included."""
    check_count(steps, "steps", least=0)


def count_steps(steps: int | None, per_step: Sequence[Any] | None) -> int:
    """The number of steps of a loop that has `per_step`, one value per step, or `None`.

    Raises:
        ValueError: if `steps` is negative or does not fit `per_step`, or neither is given.
    """
    if per_step is None:
        if steps is None:
            raise ValueError("`steps` must be an integer of at least 0 without `per_step`, got None.")
        check_steps(steps)
        return steps
    if not isinstance(per_step, Sequence):
        raise TypeError(f"`per_step` must be a list of one value per step, got {type(per_step).__name__}.")
    if steps is not None and steps != len(per_step):
        raise ValueError(f"`steps` must be the length of `per_step`, {len(per_step)}, got {steps}; leave `steps` out.")
    return len(per_step)


def check_adjoint(adjoint: object) -> None:
    """Raise `TypeError` unless `adjoint` is a value with the methods `gradient` and `loop`."""
    methods = all(callable(getattr(adjoint, name, None)) for name in ("gradient", "loop"))
    if isinstance(adjoint, type) or not methods:
        raise TypeError(
            f"`adjoint` must be an adjoint, got {adjoint!r}; pass Unrolled() or FirstOrder() of `adjoints`."
        )


def check_scalar(loss: object, argument: str = "loss") -> None:
    """Raise `ValueError` unless a loss is a scalar array."""
    shape = getattr(loss, "shape", None)
    if loss is None:
        raise ValueError(f"`{argument}` must be a scalar, got None; return the loss.")
    if shape is None:
        raise ValueError(f"`{argument}` must be a scalar array, got {type(loss).__name__}; return nothing else.")
    if len(shape):
        raise ValueError(f"`{argument}` must be a scalar, got shape {tuple(shape)}; average it over the examples.")


def check_descending(others: Mapping[str, object]) -> None:
    """Raise `ValueError` if an inner loop has parameters without a gradient; `others` holds them by name."""
    if others:
        name, value = next(iter(others.items()))
        found = getattr(value, "dtype", type(value).__name__)
        raise ValueError(
            f"`params[{name!r}]` must be an array of real or complex numbers to descend, got {found}; leave it out by "
            "`names`, or hand it to the loss by `args`."
        )
