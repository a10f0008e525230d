"""One wording for what an argument must be: messages name the argument, the constraint and the value received."""

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

__all__ = ["check_choice", "check_count", "check_positive", "is_count", "is_integer", "is_positive", "require"]


def require(holds: bool, argument: str, constraint: str, value: object) -> None:
    """Raise `ValueError` unless the constraint holds.

    >>> require(False, "steps", "a positive integer", 0)
    Traceback (most recent call last):
        ...
    ValueError: `steps` must be a positive integer, got 0.
    """
    if not holds:
        raise ValueError(f"`{argument}` must be {constraint}, got {value!r}.")


def is_integer(value: object) -> bool:
    """Whether `value` is an `int`; a `bool` is none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_count(value: Any, least: int = 1) -> bool:
    """Whether `value` is an integer of at least `least`."""
    return is_integer(value) and value >= least


def is_positive(value: Any) -> bool:
    """Whether `value` is a positive finite number."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < math.inf


def check_count(value: object, argument: str, least: int = 1) -> None:
    """Raise `ValueError` unless `value` is an integer of at least `least`."""
    constraint = "a positive integer" if least == 1 else f"an integer of at least {least}"
    require(is_count(value, least), argument, constraint, value)


def check_positive(value: object, argument: str) -> None:
    """Raise `ValueError` unless `value` is a positive finite number."""
    require(is_positive(value), argument, "a positive finite number", value)


def check_choice(value: object, argument: str, choices: Iterable[str]) -> None:
    """Raise `ValueError` unless `value` is one of the `choices`."""
    known = list(choices)
    require(value in known, argument, f"one of {', '.join(map(repr, known))}", value)
