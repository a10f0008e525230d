"""Solvers of linear systems over trees of tensors."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metabridge.adaptation.steps import check_steps
from metabridge.adaptation.trees import flatten, map_leaves

__all__ = ["conjugate_gradient", "inner_product"]


def inner_product(first: Any, second: Any) -> Tensor:
    """The sum of products of all entries of two trees of one structure, a scalar."""
    others = flatten(second)
    return torch.stack([(value * others[name]).sum() for name, value in flatten(first).items()]).sum()


def conjugate_gradient(matvec: Callable[[Any], Any], right: Any, steps: int) -> Any:
    """`steps` steps of conjugate gradients from 0 towards the solution x of `matvec(x) = right`.

    Hestenes, Stiefel 1952, section 3. Exact, up to rounding, after as many steps as the operator has different
    eigenvalues. A residual of 0 stays where it is.

    Args:
        matvec: a symmetric positive definite operator on trees like `right`.
        right: a tree of tensors.
        steps: number of steps, at least 0.
    """
    check_steps(steps)
    solution = map_leaves(torch.zeros_like, right)
    residual = direction = right
    square = inner_product(residual, residual)
    for _ in range(steps):
        image = matvec(direction)
        length = _quotient(square, inner_product(direction, image))
        solution = map_leaves(lambda x, d, length=length: x + length * d, solution, direction)
        residual = map_leaves(lambda r, a, length=length: r - length * a, residual, image)
        before, square = square, inner_product(residual, residual)
        turn = _quotient(square, before)
        direction = map_leaves(lambda r, d, turn=turn: r + turn * d, residual, direction)
    return solution


def _quotient(numerator: Tensor, denominator: Tensor) -> Tensor:
    """0 where the denominator is 0: the residual is gone."""
    gone = denominator == 0
    return torch.where(gone, 0.0, numerator / torch.where(gone, 1.0, denominator))
