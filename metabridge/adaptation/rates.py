"""Learning rates and optimisers of an inner loop: numbers, shapes and names, checked before an array is computed."""

from collections.abc import Collection, Mapping
from numbers import Real
from typing import Any

from metabridge.adaptation.names import check_names
from metabridge.checks import check_number, is_number, require

__all__ = [
    "ADAPTED",
    "check_adam",
    "check_numbers",
    "check_optimiser",
    "check_rate",
    "check_sgd",
    "rate_at_step",
    "rates_by_name",
]

ADAPTED = "the adapted part"
"""Whose parameters a learning rate by name must name: with a selection, not all of the model's."""


def check_rate(rate: object, argument: str = "learning_rate", shape: tuple[int, ...] = ()) -> None:
    """Raise unless a learning rate can be used for a parameter of this shape.

    Args:
        rate: a number (finite and at least 0), or an array that broadcasts to that shape. The numbers in an array are
            not looked at: they may be learned, or not known yet.
        argument: name of the rate, for messages.
        shape: of the parameter.

    Raises:
        TypeError: if it is neither a number nor an array.
        ValueError: if the number is negative or not finite, or the array is complex or does not broadcast to the shape.
    """
    if isinstance(rate, Real):
        check_number(rate, argument, least=0)
        return
    found = getattr(rate, "shape", None)
    if found is None:
        raise TypeError(f"`{argument}` must be a number or an array, got {type(rate).__name__}.")
    dtype = str(getattr(rate, "dtype", ""))
    require("complex" not in dtype, argument, "real", dtype)
    if not _broadcasts(tuple(found), tuple(shape)):
        own = f" or broadcast to its parameter's shape {tuple(shape)}" if shape else ""
        raise ValueError(
            f"`{argument}` must be a scalar{own}, got shape {tuple(found)}; "
            "for rates of single entries pass a mapping name → array of the parameter's shape."
        )


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of `shape` broadcasts to `target` and no further."""
    pairs = zip(shape[::-1], target[::-1], strict=False)
    return len(shape) <= len(target) and all(size in (1, wanted) for size, wanted in pairs)


def rates_by_name(rate: Any, shapes: Mapping[str, tuple[int, ...]], argument: str) -> dict[str, Any]:
    """Name → learning rate of every parameter, checked; one rate serves all.

    Raises:
        TypeError: if a rate is neither a number nor an array.
        ValueError: if a mapping lacks a name or has an unknown one, or a rate has a wrong value or shape.
    """
    if not isinstance(rate, Mapping):
        for shape in shapes.values() or [()]:
            check_rate(rate, argument, shape)
        return dict.fromkeys(shapes, rate)
    check_names(rate, shapes, ADAPTED, argument)
    for name, shape in shapes.items():
        check_rate(rate[name], f"{argument}[{name!r}]", shape)
    return {name: rate[name] for name in shapes}


def check_numbers(rate: object, argument: str) -> None:
    """Raise `ValueError` for a negative or infinite number in a learning rate, as early as it is known."""
    rates = {f"{argument}[{name!r}]": each for name, each in rate.items()} if isinstance(rate, Mapping) else None
    for name, each in (rates or {argument: rate}).items():
        if isinstance(each, Real):
            check_rate(each, name)


def check_sgd(learning_rate: object, momentum: float, nesterov: bool) -> None:
    """Raise `ValueError` unless these are numbers for gradient descent."""
    check_numbers(learning_rate, "learning_rate")
    require(is_number(momentum) and 0 <= momentum < 1, "momentum", "in [0, 1)", momentum)
    require(momentum > 0 or not nesterov, "momentum", "above 0 with nesterov=True", momentum)


def check_adam(learning_rate: object, b1: float, b2: float, eps: float, eps_root: float) -> None:
    """Raise `ValueError` unless these are numbers for Adam."""
    check_numbers(learning_rate, "learning_rate")
    for name, decay in (("b1", b1), ("b2", b2)):
        require(is_number(decay) and 0 <= decay < 1, name, "in [0, 1)", decay)
    for name, added in (("eps", eps), ("eps_root", eps_root)):
        check_number(added, name, least=0)


def rate_at_step(rate: Any, step: Any) -> Any:
    """The learning rate of a step (0, 1, …): the value of a function of the step, or the rate itself."""
    return rate(step) if callable(rate) else rate


def check_optimiser(optimiser: object, argument: str = "optimiser", foreign: Collection[str] = ()) -> None:
    """Raise `TypeError` unless it is a pair of functions `init` and `update`, and of none of the `foreign` packages.

    Args:
        optimiser: what the caller gave.
        argument: its name, for messages.
        foreign: packages whose optimisers compute with another framework's arrays.
    """
    if isinstance(optimiser, type) or not all(callable(getattr(optimiser, name, None)) for name in ("init", "update")):
        raise TypeError(
            f"`{argument}` must be a pair of functions (init, update), got {optimiser!r}; "
            "make one with sgd or adam of the backend's `optimisers`."
        )
    package = type(optimiser).__module__.partition(".")[0]
    if package in foreign:
        raise TypeError(
            f"`{argument}` must compute with the backend's own arrays, got one of {package}; "
            "make one with sgd or adam of the backend's `optimisers`."
        )
