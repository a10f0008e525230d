"""Names in `params`: the part for a submodule, and errors that propose the nearest right name (contract C10)."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

__all__ = ["check_names", "check_shape", "select_subdict"]

T = TypeVar("T")


def select_subdict(params: Mapping[str, T], key: str, expected: Iterable[str], owner: str) -> dict[str, T] | None:
    """The entries of `params` below `key`, without that prefix.

    Args:
        params: dotted parameter name → value.
        key: dotted name of a submodule; `""` stands for the module itself.
        expected: all parameter names of the module that `params` is for.
        owner: the module's class name, for messages.

    Returns:
        A dictionary, or `None` if the submodule has no parameters (there is nothing to replace).

    Raises:
        ValueError: if `params` holds a name the module does not have or lacks a parameter of the submodule;
            there is no fall-back to stored parameters. Whether there is a submodule `key` at all is for the
            module to check: its parameters' names do not tell.
    """
    names = list(expected)
    check_unknown(params, names, owner)
    prefix = f"{key}." if key else ""
    own = [name for name in names if name.startswith(prefix)]
    missing = [name for name in own if name not in params]
    if missing:
        raise ValueError(
            f"`params` of {owner} must hold every parameter it replaces, {missing[0]!r} is missing"
            f"{_and_more(missing)}; start from `dict(model.meta_named_parameters())` and replace entries of it."
        )
    return {name[len(prefix) :]: params[name] for name in own} or None


def check_names(params: Mapping[str, object], expected: Iterable[str], owner: str) -> None:
    """Raise `ValueError` unless `params` holds exactly the `expected` names."""
    select_subdict(params, "", expected, owner)


def check_unknown(params: Mapping[str, object], expected: list[str], owner: str) -> None:
    """Raise `ValueError` if `params` holds a name that is not expected, proposing the nearest ones."""
    known = set(expected)
    unknown = [name for name in params if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], expected, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has {', '.join(expected) or 'none'}."
        raise ValueError(f"`params` holds {unknown[0]!r}, which is no parameter of {owner}{_and_more(unknown)}; {hint}")


def check_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...], owner: str) -> None:
    """Raise `ValueError` unless a parameter has the shape of the one it replaces."""
    if tuple(shape) != tuple(expected):
        raise ValueError(
            f"`params[{name!r}]` of {owner} must have shape {tuple(expected)}, got {tuple(shape)}; "
            "replace a parameter by one of its own shape."
        )


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
