"""One wording for what an argument must be: messages name the argument, the constraint, the value and the next step.

Every integer and every number may be NumPy's; what a check returns is Python's, so that it can be hashed, printed and
written to JSON like any other.
"""

import difflib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

__all__ = [
    "check_callable",
    "check_choice",
    "check_class_targets",
    "check_count",
    "check_instance",
    "check_integer",
    "check_mapping",
    "check_number",
    "check_path",
    "check_positive",
    "check_same_shape",
    "check_seed",
    "check_share",
    "check_size",
    "did_you_mean",
    "is_count",
    "is_integer",
    "is_number",
    "is_positive",
    "require",
]

_SEED_BITS = 1024  # Python prints no integers of more than some thousand digits, and a seed is printed


def require(holds: bool, argument: str, constraint: str, value: object, advice: str = "") -> None:
    """Raise `ValueError` unless the constraint holds.

    >>> require(False, "steps", "a positive integer", 0, "pass for example 5")
    Traceback (most recent call last):
        ...
    ValueError: `steps` must be a positive integer, got 0; pass for example 5.
    """
    if not holds:
        raise ValueError(_message(argument, constraint, value, advice))


def _message(argument: str, constraint: str, value: object, advice: str) -> str:
    return f"`{argument}` must be {constraint}, got {_shown(value)}{advice and f'; {advice}'}."


def _shown(value: object) -> str:
    """A value in a message."""
    if isinstance(value, int) and value.bit_length() > _SEED_BITS:
        return f"an integer of {value.bit_length()} bits"
    try:
        return repr(value)
    except Exception:  # a container of such an integer, or an object whose own `__repr__` fails
        return f"a {type(value).__name__} that cannot be printed"


def check_instance(value: object, kind: type | tuple[type, ...], argument: str, advice: str = "") -> None:
    """Raise `TypeError` unless `value` is an instance of the class, or of one of several.

    >>> check_instance(int, int, "steps", "pass for example 5")
    Traceback (most recent call last):
        ...
    TypeError: `steps` must be of class int, got <class 'int'>; pass for example 5.
    """
    if not isinstance(value, kind):
        names = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
        raise TypeError(_message(argument, f"of class {names}", value, advice))


def check_mapping(value: object, argument: str, advice: str = "") -> None:
    """Raise `TypeError` unless `value` is a mapping."""
    if not isinstance(value, Mapping):
        raise TypeError(_message(argument, "a mapping", value, advice))


def check_callable(value: object, argument: str, advice: str = "") -> None:
    """Raise `TypeError` unless `value` is a function, or an object that can be called like one."""
    if not callable(value):
        raise TypeError(_message(argument, "a function", value, advice))


def check_path(value: Any, argument: str) -> Path:
    """`value` as a `Path`.

    Raises:
        TypeError: if it is neither text nor a path.
        ValueError: if it holds a null character, which no name of a file has.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(_message(argument, "a path", value, "pass text or a pathlib.Path"))
    require("\0" not in os.fsdecode(value), argument, "a path without null characters", value)
    return Path(os.fsdecode(value))


def is_integer(value: object) -> bool:
    """Whether `value` is an integer, Python's or NumPy's; a `bool` is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_count(value: Any, least: int = 1) -> bool:
    """Whether `value` is an integer of at least `least`."""
    return is_integer(value) and bool(value >= least)


def is_number(value: object) -> bool:
    """Whether `value` is a finite real number, Python's or NumPy's; a `bool` is none."""
    try:
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False


def is_positive(value: Any) -> bool:
    """Whether `value` is a positive finite number."""
    return is_number(value) and bool(value > 0)


def check_integer(value: Any, argument: str, advice: str = "") -> int:
    """`value` as Python's `int`.

    Raises:
        TypeError: if it is no integer: a float would stand for the integer it is rounded to.
    """
    if not is_integer(value):
        raise TypeError(_message(argument, "an integer", value, advice))
    return int(value)


def check_count(value: Any, argument: str, least: int = 1, advice: str = "") -> int:
    """`value` as Python's `int`.

    Raises:
        ValueError: unless it is an integer of at least `least`.
    """
    constraint = "a positive integer" if least == 1 else f"an integer of at least {least}"
    require(is_count(value, least), argument, constraint, value, advice)
    return int(value)


def check_seed(value: Any, argument: str, advice: str = "") -> int:
    """`value` as Python's `int`.

    Raises:
        TypeError: if it is no integer: a `bool` or a `float` would stand for another seed.
        ValueError: if it has more than 1024 bits.
    """
    seed = check_integer(value, argument, advice)
    require(seed.bit_length() <= _SEED_BITS, argument, f"an integer of at most {_SEED_BITS} bits", seed, advice)
    return seed


def check_number(value: Any, argument: str, least: float = -math.inf, advice: str = "") -> float:
    """`value` as Python's `float`.

    Raises:
        ValueError: unless it is a finite number of at least `least`.
    """
    constraint = "a finite number" if least == -math.inf else f"a finite number of at least {least:g}"
    require(is_number(value) and value >= least, argument, constraint, value, advice)
    return float(value)


def check_positive(value: Any, argument: str, advice: str = "") -> float:
    """`value` as Python's `float`.

    Raises:
        ValueError: unless it is a positive finite number.
    """
    require(is_positive(value), argument, "a positive finite number", value, advice)
    return float(value)


def check_share(value: Any, argument: str, advice: str = "") -> float:
    """`value` as Python's `float`.

    Raises:
        ValueError: unless it is a number in (0, 1].
    """
    require(is_positive(value) and value <= 1, argument, "a number in (0, 1]", value, advice)
    return float(value)


def check_size(value: Any, argument: str) -> tuple[int, int]:
    """`(height, width)` in pixels from what a user may write: an integer stands for a square.

    Raises:
        ValueError: unless it is one positive integer or a pair of them.
    """
    sides: Sequence[Any] = tuple(value) if isinstance(value, Sequence) else (value, value)
    fits = len(sides) == 2 and all(is_count(side) for side in sides)
    require(fits, argument, "a positive side or a pair (height, width)", value)
    return int(sides[0]), int(sides[1])


def check_choice(value: object, argument: str, choices: Iterable[str], owner: str = "") -> None:
    """Raise `ValueError` unless `value` is one of the `choices`, which may be those of an `owner`.

    >>> check_choice("conv5", "network", ["mlp", "conv4"])
    Traceback (most recent call last):
        ...
    ValueError: `network` must be one of 'mlp', 'conv4', got 'conv5'; did you mean 'conv4'?
    """
    known = list(choices)
    if not isinstance(value, str) or value not in known:
        raise ValueError(
            f"`{argument}`{owner and f' of {owner}'} must be one of {', '.join(map(repr, known))}, got {value!r}"
            f"{did_you_mean(value, known)}"
        )


def did_you_mean(value: object, choices: Iterable[str]) -> str:
    """The end of a message: a full stop, or the names that are like `value`."""
    near = difflib.get_close_matches(str(value), list(choices))
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else "."


def check_class_targets(shape: tuple[int, ...], expected: tuple[int, ...], dtype: object, is_integer: bool) -> None:
    """Raise `ValueError` unless the targets of a classification are integers, one for each example or pixel.

    Args:
        shape: of the targets.
        expected: shape of the outputs without the axis of classes.
        dtype: of the targets, for messages.
        is_integer: whether that is a dtype of integers.
    """
    if not is_integer:
        raise ValueError(
            f"`targets` must be integers, the class of every example, got {dtype}; cast class numbers to integers, or "
            "take mean_squared_error for a regression."
        )
    if tuple(shape) != tuple(expected):
        raise ValueError(
            f"`targets` must have the shape of `outputs` without the axis of classes, {tuple(expected)}, got "
            f"{tuple(shape)}; give one class for each example."
        )


def check_same_shape(targets: tuple[int, ...], outputs: tuple[int, ...]) -> None:
    """Raise `ValueError` unless targets have the shape of the outputs: `(n, 1)` and `(n,)` would broadcast."""
    if tuple(targets) != tuple(outputs):
        raise ValueError(
            f"`targets` must have the shape of `outputs`, {tuple(outputs)}, got {tuple(targets)}; add or remove a last "
            "axis."
        )
