"""The variables in a tree of modules, by name."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from flax import nnx

from metabridge.adaptation.names import check_names, check_unknown, without_ordinary

__all__ = [
    "aliases",
    "all_variables",
    "buffer_values",
    "given_names",
    "meta_entries",
    "meta_variables",
    "once",
    "owns_all",
    "parts",
    "submodule",
    "walk",
]


def given_names(module: nnx.Module, params: Mapping[str, Any], kind: Any = nnx.Param, argument: str = "params") -> Any:
    """Variable → its name in `params`, which must name every variable of this kind once and nothing else.

    A shared variable has several names. Any of them will do, since Flax sorts the attributes of a copy, which makes
    another name the first one.
    """
    names = aliases(module, kind)
    owner = type(module).__name__
    params = meta_entries(module, params, kind, argument)
    check_unknown(params, [name for aliases in names.values() for name in aliases], owner, argument)
    chosen = {identity: [name for name in aliases if name in params] for identity, aliases in names.items()}
    twice = [given for given in chosen.values() if len(given) > 1]
    if twice:
        raise ValueError(
            f"`{argument}` of {owner} holds {' and '.join(map(repr, twice[0]))}, which are one; give it once."
        )
    # For each variable the name it was given, or the first one, which is then found missing.
    check_names(params, [(given or names[identity])[0] for identity, given in chosen.items()], owner, argument)
    return {identity: given[0] for identity, given in chosen.items()}


def meta_entries(
    module: nnx.Module, params: Mapping[str, Any], kind: Any = nnx.Param, argument: str = "params"
) -> Mapping[str, Any]:
    """`params` without the parameters of ordinary modules in a MetaModule, see `without_ordinary`."""
    known = {name for names in aliases(module, kind).values() for name in names}

    def ordinary() -> dict[str, jax.Array]:
        found = all_variables(module)
        return {name: each.get_raw_value() for name, each, _ in found if isinstance(each, kind) and name not in known}

    return without_ordinary(params, known, ordinary, type(module).__name__, argument)


def aliases(module: nnx.Module, kind: Any = nnx.Param) -> dict[int, list[str]]:
    """All names of every variable of this kind (of parameters: those that a MetaModule owns)."""
    names: dict[int, list[str]] = {}
    for name, variable, is_meta in all_variables(module):
        if isinstance(variable, kind) and (is_meta or kind is not nnx.Param):
            names.setdefault(id(variable), []).append(name)
    return names


def submodule(module: Any, key: str) -> Any:
    """The module, or plain function such as `nnx.relu`, at the dotted path `key`, which may be empty; else `None`."""
    if not key:
        return module
    first, _, rest = key.partition(".")
    child = dict(_entries(module)).get(first)
    if rest:
        return submodule(child, rest) if isinstance(child, (nnx.Pytree, *_CONTAINERS)) else None
    return child if callable(child) or isinstance(child, nnx.Module) else None


def meta_variables(
    module: nnx.Module, prefix: str = "", recurse: bool = True, whole: bool = False
) -> Iterator[tuple[str, nnx.Param]]:
    """Parameters of the MetaModules in `module` (`whole`: of everything in it), each once, by its first name."""
    found = walk(module, prefix, recurse, whole or owns_all(module))
    return once((name, each) for name, each, is_meta in found if is_meta and isinstance(each, nnx.Param))


def owns_all(module: object) -> bool:
    """Whether everything in `module` is its own."""
    return getattr(type(module), "_owns_all", False)


def buffer_values(module: nnx.Module) -> dict[str, jax.Array]:
    """Running statistics anywhere in `module` by all their names; a shared one has several."""
    return {name: each.get_value() for name, each, _ in all_variables(module) if isinstance(each, nnx.BatchStat)}


def all_variables(module: nnx.Module) -> Iterator[tuple[str, nnx.Variable, bool]]:
    """(name, variable, whether a MetaModule owns it) of everything in a module, a shared one by all its names."""
    return walk(module, whole=owns_all(module))


def once(variables: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Each variable by its first name."""
    seen: set[int] = set()
    for name, variable in variables:
        if id(variable) not in seen:
            seen.add(id(variable))
            yield name, variable


def parts(module: nnx.Module) -> tuple[list[nnx.Pytree], list[nnx.Variable]]:
    """Everything in `module`, itself included: all modules and other nodes, and all variables, each once."""
    nodes: dict[int, nnx.Pytree] = {}
    variables: dict[int, nnx.Variable] = {}
    waiting: list[Any] = [module]
    while waiting:
        each = waiting.pop()
        if isinstance(each, nnx.Variable):
            variables[id(each)] = each
        elif isinstance(each, nnx.Pytree) and id(each) not in nodes:
            nodes[id(each)] = each
            waiting += vars(each).values()
        elif isinstance(each, _CONTAINERS):
            waiting += each.values() if isinstance(each, dict) else each
    return list(nodes.values()), list(variables.values())


_CONTAINERS = (list, tuple, dict)


def walk(
    module: Any, prefix: str = "", recurse: bool = True, whole: bool = False
) -> Iterator[tuple[str, nnx.Variable, bool]]:
    """(name, variable, whether a MetaModule owns it), also in lists and dictionaries (`nnx.data`).

    The order is that of assignment, in a copy that of the names.
    """
    is_meta = whole or hasattr(type(module), "_owns_all")
    for key, value in _entries(module):
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, nnx.Variable):
            yield name, value, is_meta
        elif recurse and isinstance(value, (nnx.Pytree, *_CONTAINERS)):
            yield from walk(value, name, recurse, whole or owns_all(value))


def _entries(module: Any) -> list[tuple[str, Any]]:
    """What is in a module or in a list or dictionary that it keeps, by name."""
    if isinstance(module, (list, tuple)):
        return [(str(position), value) for position, value in enumerate(module)]
    entries = module if isinstance(module, dict) else vars(module)
    return [(str(key), value) for key, value in entries.items()]
