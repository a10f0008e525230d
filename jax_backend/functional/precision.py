"""Functions whose arithmetic needs more digits than half precision has."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from metabridge.checks import require

__all__ = ["full_precision"]

F = TypeVar("F", bound=Callable[..., Any])


def full_precision(function: F) -> F:
    """The function computed in at least float32, with results in the dtype of its first array of numbers.

    Sums of squares overflow half precision, and linear systems lose all digits in it. Matrix products have the digits
    of their dtype: a GPU would take fewer.

    Raises:
        ValueError: when it is called without such an array.
    """

    argument = next(iter(inspect.signature(function).parameters))

    @functools.wraps(function)
    def wide(*inputs: Any, **options: Any) -> Any:
        given = (*inputs, *options.values())
        reals = [each for each in given if _is_real(each)]
        wanted, advice = "an array of floating-point numbers", "convert it with jnp.asarray(…, jnp.float32)"
        require(bool(reals), argument, wanted, given[0] if given else None, advice)
        with jax.default_matmul_precision("highest"):
            result = function(*jax.tree.map(_widened, inputs), **jax.tree.map(_widened, options))
        return jax.tree.map(lambda each: each.astype(reals[0].dtype), result)

    return cast(F, wide)


def _is_real(value: Any) -> bool:
    return isinstance(value, (jax.Array, np.ndarray)) and bool(jnp.issubdtype(value.dtype, jnp.floating))


def _widened(value: Any) -> Any:
    return value.astype(jnp.float32) if _is_real(value) and jnp.finfo(value.dtype).bits < 32 else value
