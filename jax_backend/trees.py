"""Pytrees with leaves for computation and others that go along: integers, functions, settings."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Split", "is_array", "is_differentiable", "named_leaves", "split", "uphill"]


class Split(NamedTuple):
    """Some leaves of a pytree.

    Attributes:
        chosen: the leaves that were chosen, by position.
        others: the other leaves.
        merge: other values for the chosen leaves → the whole pytree.
        alone: values for the chosen leaves → a pytree of the same structure with `None` for the others.
    """

    chosen: list[Any]
    others: list[Any]
    merge: Callable[[Sequence[Any]], Any]
    alone: Callable[[Sequence[Any]], Any]


def split(tree: Any, choose: Callable[[Any], bool]) -> Split:
    """The leaves of a pytree for which `choose` holds, and the way back."""
    leaves, structure = jax.tree.flatten(tree)
    picked = [choose(leaf) for leaf in leaves]

    def put(values: Sequence[Any], others: Sequence[Any]) -> Any:
        given, kept = iter(values), iter(others)
        return jax.tree.unflatten(structure, [next(given) if here else next(kept) for here in picked])

    chosen = [leaf for leaf, here in zip(leaves, picked, strict=True) if here]
    others = [leaf for leaf, here in zip(leaves, picked, strict=True) if not here]
    return Split(chosen, others, lambda values: put(values, others), lambda values: put(values, [None] * len(others)))


def is_array(leaf: Any) -> bool:
    """Whether a leaf can be an argument of a compiled program: an array or a number."""
    return isinstance(leaf, (jax.Array, np.ndarray, np.generic, int, float, complex)) and not isinstance(leaf, bool)


def is_differentiable(leaf: Any) -> bool:
    """Whether a leaf is a number or an array of real or complex numbers."""
    return is_array(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def named_leaves(tree: Any) -> dict[str, Any]:
    """Name → leaf; the names on the way to a leaf are joined by dots. A flat mapping keeps its names."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in paths}


def uphill(gradients: Any) -> Any:
    """Gradients of `jax.grad` as directions of steepest ascent: the conjugates of complex ones.

    For a real f of w = x + iy, `jax.grad` returns ∂f/∂x − i ∂f/∂y; f grows fastest along ∂f/∂x + i ∂f/∂y, which is
    PyTorch's gradient.
    """
    return jax.tree.map(lambda each: jnp.conj(each) if jnp.iscomplexobj(each) else each, gradients)
