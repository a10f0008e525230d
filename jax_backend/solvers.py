"""Solvers of linear systems over pytrees."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from metabridge.adaptation.steps import check_steps

__all__ = ["conjugate_gradient", "inner_product"]


def inner_product(first: Any, second: Any) -> jax.Array:
    """The sum of products of all entries of two trees of one structure, a scalar."""
    products = jax.tree.map(lambda one, other: (one * other).sum(), first, second)
    return jnp.stack(jax.tree.leaves(products)).sum()


def conjugate_gradient(matvec: Callable[[Any], Any], right: Any, steps: int) -> Any:
    """`steps` steps of conjugate gradients from 0 towards the solution x of `matvec(x) = right`.

    Hestenes, Stiefel 1952, section 3. Exact, up to rounding, after as many steps as the operator has different
    eigenvalues. A residual of 0 stays where it is.

    Args:
        matvec: a symmetric positive definite operator on pytrees like `right`.
        right: a pytree of arrays.
        steps: number of steps, at least 0.
    """
    check_steps(steps)

    def step(carry: tuple[Any, Any, Any, jax.Array], _: None) -> tuple[tuple[Any, Any, Any, jax.Array], None]:
        solution, residual, direction, before = carry
        image = matvec(direction)
        length = _quotient(before, inner_product(direction, image))
        solution = jax.tree.map(lambda x, d: x + length * d, solution, direction)
        residual = jax.tree.map(lambda r, a: r - length * a, residual, image)
        square = inner_product(residual, residual)
        turn = _quotient(square, before)
        direction = jax.tree.map(lambda r, d: r + turn * d, residual, direction)
        return (solution, residual, direction, square), None

    start = (jax.tree.map(jnp.zeros_like, right), right, right, inner_product(right, right))
    return jax.lax.scan(step, start, None, steps)[0][0]


def _quotient(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """0 where the denominator is 0: the residual is gone."""
    gone = denominator == 0
    return jnp.where(gone, 0.0, numerator / jnp.where(gone, 1.0, denominator))
