"""Names in `params`: the part for a submodule, and errors that propose the nearest right name (contract C10)."""

import difflib
import fnmatch
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from metabridge.checks import check_mapping, require

__all__ = [
    "Selection",
    "check_entries",
    "check_names",
    "check_shape",
    "check_unknown",
    "select_names",
    "select_subdict",
    "without_ordinary",
]

T = TypeVar("T")

_MAPPING = "pass name → array, such as `dict(model.meta_named_parameters())`"

Selection = str | Sequence[str] | Callable[[str], bool] | None
"""Which parameters adapt: a shell-style pattern of names (`"head.*"`), several, a predicate, or `None` for all."""


def select_subdict(
    params: Mapping[str, T], wanted: Mapping[str, str], known: Iterable[str], owner: str, argument: str = "params"
) -> dict[str, T]:
    """The entries of `params` that a submodule needs, under the names it knows them by.

    Args:
        params: dotted parameter name → value.
        wanted: name inside the submodule → name in `params`. A layer or parameter that is shared has several
            names inside, and one in `params`.
        known: all parameter names of the module that `params` is for.
        owner: the module's class name, for messages.
        argument: name of `params` where it came from, for messages.

    Returns:
        A dictionary, empty if the submodule has no parameters.

    Raises:
        ValueError: if `params` holds a name the module does not have, or lacks a parameter of the submodule.
            Stored parameters never take its place.
    """
    check_unknown(params, list(known), owner, argument)
    missing = [name for name in wanted.values() if name not in params]
    if missing:
        raise ValueError(
            f"`{argument}` of {owner} must hold every parameter, {missing[0]!r} is missing{_and_more(missing)}; "
            "start from a mapping with all names, such as `dict(model.meta_named_parameters())`."
        )
    return {inner: params[name] for inner, name in wanted.items()}


def select_names(names: Iterable[str], selection: Selection, owner: str, argument: str = "names") -> list[str]:
    """The names that a selection picks, in the order of `names`.

    >>> select_names(["features.weight", "head.weight", "head.bias"], "head.*", "Model")
    ['head.weight', 'head.bias']

    Args:
        names: all parameter names.
        selection: `None` for all; a shell-style pattern, case-sensitive, in which `*` also matches dots; several
            patterns, of which a name must match one; or a predicate of the name.
        owner: the module's class name, for messages.
        argument: name of the selection where the caller gave it, for messages.

    Raises:
        ValueError: if a pattern matches no name, or nothing is selected.
    """
    known = list(names)
    if selection is None:
        return known
    if callable(selection):
        chosen = [name for name in known if selection(name)]
    else:
        patterns = [selection] if isinstance(selection, str) else selection
        if not isinstance(patterns, Sequence) or not all(isinstance(pattern, str) for pattern in patterns):
            raise TypeError(
                f"`{argument}` must be a pattern of names, several, or a predicate of the name, got {selection!r}; "
                'pass for example "head.*".'
            )
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in known):
                raise ValueError(
                    f"`{argument}` holds {pattern!r}, which matches no parameter of {owner}; {_near(pattern, known)}"
                )
        chosen = [name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
    if not chosen:
        raise ValueError(
            f"`{argument}` selects no parameter of {owner}, got {selection!r}; select at least one of "
            f"{', '.join(known) or 'none'}, or pass None for all."
        )
    return chosen


def without_ordinary(
    params: Mapping[str, T],
    known: Container[str],
    ordinary: Callable[[], Mapping[str, object]],
    owner: str,
    argument: str = "params",
) -> Mapping[str, T]:
    """`params` without the parameters of ordinary modules inside, which may be named but not replaced.

    A loop that starts from all named parameters of a model holds these too. Their values do not adapt, so each must be
    the stored one itself.

    Args:
        params: dotted parameter name → value.
        known: the names that `params` is for.
        ordinary: name → stored value of the parameters of ordinary modules; called if a name is not known.
        owner: the module's class name, for messages.
        argument: name of `params` where it came from, for messages.

    Raises:
        ValueError: if the value of an ordinary module's parameter is not the stored one.
    """
    check_mapping(params, argument, _MAPPING)
    others = [name for name in params if name not in known]
    if not others:
        return params
    stored = ordinary()
    for name in others:
        if name in stored and params[name] is not stored[name]:
            module = name.rpartition(".")[0]
            whose = f"the ordinary module {module!r} in {owner}" if module else f"{owner} itself"
            raise ValueError(
                f"`{argument}` holds a new value for {name!r}, a parameter of {whose}, which `{argument}` does not "
                "replace; make that module a MetaModule, or the whole model one with as_meta_module, or leave the name "
                "out."
            )
    return {name: value for name, value in params.items() if name not in stored}


def check_names(params: Mapping[str, object], expected: Iterable[str], owner: str, argument: str = "params") -> None:
    """Raise `ValueError` unless `params` holds exactly the `expected` names; `argument` is its name in messages."""
    names = list(expected)
    select_subdict(params, dict(zip(names, names, strict=True)), names, owner, argument)


def check_entries(
    given: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], owner: str, argument: str = "params"
) -> None:
    """Raise `ValueError` unless `given` holds exactly these names, each value in its shape."""
    check_names(given, shapes, owner, argument)
    for name, shape in shapes.items():
        is_array = hasattr(given[name], "shape")
        require(is_array, f"{argument}[{name!r}]", "an array", given[name], "convert it to one")
        check_shape(name, given[name].shape, shape, owner, argument)


def check_unknown(params: Mapping[str, object], expected: list[str], owner: str, argument: str = "params") -> None:
    """Raise `ValueError` if `params` holds a name that is not expected, proposing the nearest ones."""
    check_mapping(params, argument, _MAPPING)
    known = set(expected)
    unknown = [name for name in params if name not in known]
    if unknown:
        raise ValueError(
            f"`{argument}` holds {unknown[0]!r}, which is no parameter of {owner}{_and_more(unknown)}; "
            f"{_hint(unknown[0], expected)}"
        )


def check_shape(
    name: str, shape: tuple[int, ...], expected: tuple[int, ...], owner: str, argument: str = "params"
) -> None:
    """Raise `ValueError` unless a parameter has the shape of the one it replaces."""
    if tuple(shape) != tuple(expected):
        raise ValueError(
            f"`{argument}[{name!r}]` of {owner} must have shape {tuple(expected)}, got {tuple(shape)}; "
            "replace a parameter by one of its own shape."
        )


def _near(pattern: str, known: list[str]) -> str:
    """Proposals for a pattern that matches nothing: a name, or all names below a prefix."""
    prefixes = {name[:end] for name in known for end, letter in enumerate(name) if letter == "."}
    candidates = {prefix: f"{prefix}.*" for prefix in sorted(prefixes)} | {name: name for name in known}
    near = difflib.get_close_matches(pattern.rstrip(".*?"), candidates, n=3, cutoff=0.5)
    return _hint_of([candidates[each] for each in near], known)


def _hint(wrong: str, expected: list[str]) -> str:
    return _hint_of(difflib.get_close_matches(wrong, expected, n=3, cutoff=0.5), expected)


def _hint_of(near: list[str], expected: list[str]) -> str:
    if near:
        return f"did you mean {' or '.join(map(repr, near))}?"
    return f"it has {', '.join(expected) or 'none'}."


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
