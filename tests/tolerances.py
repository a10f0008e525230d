"""The one owner of all tolerances (contract C7): how near two results must be, by what they are.

Nearness is the relative error ‖a − b‖ / ‖b‖ over all entries together, so that entries which are zero up to
rounding do not decide. NaN, infinity, a missing name and another shape are never near.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from metabridge.networks.parameters import relative_difference

__all__ = ["LIMITS", "assert_close", "assert_differs", "assert_identical", "relative_error"]

LIMITS = {
    "forward": 1e-12,
    "gradient": 1e-11,
    "meta_gradient_mlp": 1e-10,
    "meta_gradient_conv4": 1e-9,
    "finite_difference": 1e-6,
    "trajectory": 1e-8,
    "forward_float32": 1e-5,
    "gradient_float32": 1e-4,
    "forward_float16": 1e-3,
    "distribution": 0.05,
}
"""Kind of result → largest relative error; float64 unless the name says otherwise. `distribution` bounds
statistics of a few ten thousand random draws."""

LEAST_DIFFERENCE = 1e-3
"""Relative difference from which on two results count as different: far above any rounding."""


def assert_close(actual: Any, expected: Any, kind: str) -> None:
    """Raise `AssertionError` unless `actual` is as near to `expected` as results of this kind must be.

    Args:
        actual: an array or tensor, a number, or a mapping name → array.
        expected: the same.
        kind: a name of `LIMITS`.
    """
    error = relative_error(actual, expected)
    if not error <= LIMITS[kind]:
        raise AssertionError(f"relative error {error:.3e}, more than the {LIMITS[kind]:g} of {kind!r}")


def assert_differs(actual: Any, other: Any) -> None:
    """Raise `AssertionError` unless two finite results differ by far more than rounding."""
    error = relative_error(actual, other)
    if not LEAST_DIFFERENCE < error < np.inf:
        raise AssertionError(f"relative difference {error:.3e}, expected a finite one above {LEAST_DIFFERENCE:g}")


def assert_identical(actual: Any, expected: Any) -> None:
    """Raise `AssertionError` unless both have the same names, shapes, dtypes and bits."""
    left, right = _as_mapping(actual), _as_mapping(expected)
    if list(left) != list(right):
        raise AssertionError(f"names differ: {list(left)} and {list(right)}")
    for name, array in left.items():
        other = right[name]
        if (array.shape, array.dtype) != (other.shape, other.dtype):
            raise AssertionError(f"{name!r} is {array.dtype}{array.shape} and {other.dtype}{other.shape}")
        if array.tobytes() != other.tobytes():
            raise AssertionError(f"{name!r} differs in {int((array != other).sum())} of {array.size} entries")


def relative_error(actual: Any, expected: Any) -> float:
    """‖actual − expected‖ / ‖expected‖ in float64; infinite if either is not finite.

    Raises:
        AssertionError: if names or shapes differ.
    """
    try:
        return relative_difference(_as_mapping(actual), _as_mapping(expected))
    except ValueError as error:
        raise AssertionError(str(error)) from None


def _as_mapping(value: Any) -> dict[str, np.ndarray]:
    if isinstance(value, Mapping):
        return {name: _as_array(each) for name, each in value.items()}
    return {"value": _as_array(value)}


def _as_array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
