"""Names in `params`: the part for a submodule, and errors that propose the nearest right name (contract C10)."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

__all__ = ["check_names", "check_shape", "select_subdict"]

T = TypeVar("T")


def select_subdict(
    params: Mapping[str, T], wanted: Mapping[str, str], known: Iterable[str], owner: str, argument: str = "params"
) -> dict[str, T] | None:
    """The entries of `params` that a submodule needs, under the names it knows them by.

    Args:
        params: dotted parameter name → value.
        wanted: name inside the submodule → name in `params`. A layer or parameter that is shared has several
            names inside, and one in `params`.
        known: all parameter names of the module that `params` is for.
        owner: the module's class name, for messages.
        argument: what `params` is called where it came from, for messages.

    Returns:
        A dictionary, or `None` if the submodule has no parameters (there is nothing to replace).

    Raises:
        ValueError: if `params` holds a name the module does not have, or lacks a parameter of the submodule.
            There is no fall-back to stored parameters.
    """
    check_unknown(params, list(known), owner, argument)
    missing = [name for name in wanted.values() if name not in params]
    if missing:
        raise ValueError(
            f"`{argument}` of {owner} must hold every parameter, {missing[0]!r} is missing{_and_more(missing)}; "
            "start from a mapping with all names, such as `dict(model.meta_named_parameters())`."
        )
    return {inner: params[name] for inner, name in wanted.items()} or None


def check_names(params: Mapping[str, object], expected: Iterable[str], owner: str, argument: str = "params") -> None:
    """Raise `ValueError` unless `params` holds exactly the `expected` names; `argument` is its name in messages."""
    names = list(expected)
    select_subdict(params, dict(zip(names, names, strict=True)), names, owner, argument)


def check_unknown(params: Mapping[str, object], expected: list[str], owner: str, argument: str = "params") -> None:
    """Raise `ValueError` if `params` holds a name that is not expected, proposing the nearest ones."""
    known = set(expected)
    unknown = [name for name in params if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], expected, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has {', '.join(expected) or 'none'}."
        raise ValueError(
            f"`{argument}` holds {unknown[0]!r}, which is no parameter of {owner}{_and_more(unknown)}; {hint}"
        )


def check_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...], owner: str) -> None:
    """Raise `ValueError` unless a parameter has the shape of the one it replaces."""
    if tuple(shape) != tuple(expected):
        raise ValueError(
            f"`params[{name!r}]` of {owner} must have shape {tuple(expected)}, got {tuple(shape)}; "
            "replace a parameter by one of its own shape."
        )


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
