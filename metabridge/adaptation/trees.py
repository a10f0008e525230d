"""Nested containers as flat mappings with dotted names."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["check_leaves", "flatten", "map_leaves", "unflatten"]


def flatten(tree: Any, separator: str = ".") -> dict[str, Any]:
    """Name → leaf of nested mappings, lists, tuples and named tuples; a flat mapping keeps its names.

    >>> flatten({"head": {"weight": 1, "bias": 2}, "scales": [3, 4]})
    {'head.weight': 1, 'head.bias': 2, 'scales.0': 3, 'scales.1': 4}

    Args:
        tree: a leaf, whose name is empty, or a container of trees. `None` holds no leaf.
        separator: what joins the names of a path.

    Raises:
        ValueError: if two leaves have the same name.
    """
    names: dict[str, Any] = {}
    for name, leaf in _leaves(tree, "", separator):
        if name in names:
            raise ValueError(f"two entries have the name {name!r}; rename one of them.")
        names[name] = leaf
    return names


def unflatten(like: Any, leaves: Mapping[str, Any], separator: str = ".") -> Any:
    """The tree of the structure of `like` with these leaves; the inverse of `flatten`."""
    return _rebuild(like, "", leaves, separator)


def check_leaves(leaves: Mapping[str, Any], kind: type, argument: str = "params") -> None:
    """Raise `ValueError` unless every leaf of a flat mapping is an array of this class."""
    for name, leaf in leaves.items():
        if not isinstance(leaf, kind):
            where = f"{argument}[{name!r}]" if name else argument
            raise ValueError(
                f"`{where}` must be a {kind.__name__}, got {type(leaf).__name__}; make it a {kind.__name__}, or leave "
                "it out and let the model close over it."
            )


def map_leaves(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """The tree of `function(leaf, …)` over the leaves of trees of one structure; names of mappings may be in any order.

    >>> map_leaves(lambda one, two: one + two, {"a": [1, 2], "b": 3}, {"b": 30, "a": [10, 20]})
    {'a': [11, 22], 'b': 33}

    Raises:
        KeyError: if a mapping of the others lacks a name.
        ValueError: if a list or tuple of the others has another length.
    """
    if isinstance(tree, Mapping):
        return {name: map_leaves(function, tree[name], *(other[name] for other in others)) for name in tree}
    if isinstance(tree, (list, tuple)):
        members = [map_leaves(function, *each) for each in zip(tree, *others, strict=True)]
        return type(tree)(*members) if hasattr(tree, "_fields") else type(tree)(members)
    return None if tree is None else function(tree, *others)


def _entries(tree: Any) -> list[tuple[str, Any]] | None:
    """Names and members of a container; `None` for a leaf."""
    if isinstance(tree, Mapping):
        return [(str(name), member) for name, member in tree.items()]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return list(zip(tree._fields, tree, strict=True))
    if isinstance(tree, (list, tuple)):
        return [(str(position), member) for position, member in enumerate(tree)]
    return [] if tree is None else None


def _leaves(tree: Any, prefix: str, separator: str) -> Iterator[tuple[str, Any]]:
    entries = _entries(tree)
    if entries is None:
        yield prefix, tree
        return
    for name, member in entries:
        yield from _leaves(member, f"{prefix}{separator}{name}" if prefix else name, separator)


def _rebuild(like: Any, prefix: str, leaves: Mapping[str, Any], separator: str) -> Any:
    entries = _entries(like)
    if entries is None:
        return leaves[prefix]
    members = [
        _rebuild(member, f"{prefix}{separator}{name}" if prefix else name, leaves, separator)
        for name, member in entries
    ]
    if isinstance(like, Mapping):
        return dict(zip(like, members, strict=True))
    if like is None:
        return None
    return type(like)(*members) if hasattr(like, "_fields") else type(like)(members)
