"""Leaves of trees of tensors."""

from typing import Any

from torch import Tensor

__all__ = ["is_differentiable"]


def is_differentiable(leaf: Any) -> bool:
    """Whether a leaf is a tensor of real or complex numbers."""
    return isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())
