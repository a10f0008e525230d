"""The meta-parameters of an algorithm as a tree of parts, and as one flat mapping.

An algorithm with meta-parameters beside the network's takes `{"network": …, "rates": …}`. A learner, a file and an
optimiser hold one flat mapping: the network's parameters under their own names, the others as `<part>.<name>`.
"""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

__all__ = ["NETWORK", "join_parts", "part_of", "split_parts"]

T = TypeVar("T")

NETWORK = "network"
"""Name of the part that is the network."""


def split_parts(params: Mapping[str, T], parts: Collection[str]) -> dict[str, dict[str, T]] | dict[str, T]:
    """The tree of a flat mapping; the mapping itself where the network is the only part.

    >>> split_parts({"head.bias": 1, "rates.head.bias": 2}, ["network", "rates"])
    {'network': {'head.bias': 1}, 'rates': {'head.bias': 2}}
    """
    if len(parts) == 1:
        return dict(params)
    tree: dict[str, dict[str, T]] = {part: {} for part in parts}
    for name, value in params.items():
        first, _, rest = name.partition(".")
        part, inner = (first, rest) if first in tree and first != NETWORK else (NETWORK, name)
        tree[part][inner] = value
    return tree


def join_parts(tree: Mapping[str, Mapping[str, T]] | Mapping[str, T], parts: Collection[str]) -> dict[str, T]:
    """The flat mapping of a tree of parts; the inverse of `split_parts`."""
    if len(parts) == 1:
        return dict(tree)  # type: ignore[arg-type]  # the network alone is flat
    return {
        name if part == NETWORK else f"{part}.{name}": value
        for part in parts
        for name, value in tree[part].items()  # type: ignore[union-attr]
    }


def part_of(params: Any, part: str) -> Any:
    """One part of the tree `{"network": …, …}` of an algorithm's meta-parameters.

    Raises:
        ValueError: if it is not there, as in the parameters of a network alone.
    """
    if not isinstance(params, Mapping) or part not in params:
        found = ", ".join(map(repr, list(params)[:4])) if isinstance(params, Mapping) else type(params).__name__
        raise ValueError(
            f"`params` must be a mapping with the part {part!r}, got {found}; put the network's parameters under "
            f"{NETWORK!r} and the algorithm's other meta-parameters beside them."
        )
    return params[part]
