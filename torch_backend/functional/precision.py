"""Functions whose arithmetic needs more digits than half precision has."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from metabridge.checks import require

__all__ = ["full_precision"]

F = TypeVar("F", bound=Callable[..., Any])


def full_precision(function: F) -> F:
    """The function computed in at least float32, with results in the dtype of its first array of numbers.

    Sums of squares overflow half precision, and linear systems lose all digits in it. Autocast is off inside: it would
    compute matrix products of float32 in half precision.

    Raises:
        ValueError: when it is called without such an array.
    """

    argument = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def wide(*inputs: Any, **options: Any) -> Any:
        given = (*inputs, *options.values())
        reals = [each for each in given if _is_real(each)]
        wanted, advice = "a tensor of floating-point numbers", "convert it with torch.as_tensor(…, dtype=torch.float32)"
        require(bool(reals), argument, wanted, given[0] if given else None, advice)
        with torch.autocast(reals[0].device.type, enabled=False):
            result = function(*map(_widened, inputs), **{name: _widened(value) for name, value in options.items()})
        if isinstance(result, Tensor):
            return result.to(reals[0].dtype)
        return type(result)(*(each if each is None else each.to(reals[0].dtype) for each in result))

    return cast(F, wide)


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _widened(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _widened(each) for name, each in value.items()}
    return value.to(torch.promote_types(value.dtype, torch.float32)) if _is_real(value) else value
