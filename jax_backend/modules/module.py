"""`MetaModule`: a Flax NNX module whose forward pass takes its parameters from outside."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from flax import nnx

from metabridge.adaptation.names import check_entries, check_names, check_unknown

__all__ = ["MetaModule", "own_parameters", "uniform_parameter"]


class MetaModule(nnx.Module):
    """A module with `__call__(..., params=None)`, the mirror of `torch_backend.modules.MetaModule`.

    With `params=None` it is an ordinary NNX module. With `params`, a mapping from the names of
    `meta_named_parameters()` to arrays, those arrays take the place of the stored parameters, and the call is a
    pure function of `params` and its inputs. Every parameter must be there and no other name (contract C10).

    Names are those of PyTorch; axes are in the order JAX likes (see `jax_backend.weights`). A subclass hands each
    child its part:

        class Model(MetaModule):
            def __init__(self, rngs):
                self.features = MetaSequential(MetaLinear(1, 40, rngs=rngs), nnx.relu)
                self.head = MetaLinear(40, 1, rngs=rngs)

            def __call__(self, inputs, params=None):
                features = self.features(inputs, params=self.get_subdict(params, "features"))
                return self.head(features, params=self.get_subdict(params, "head"))

    `as_meta_module` makes one of a module that is already written.
    """

    _owns_all = False
    """Whether the parameters of ordinary modules inside are this module's own, to be given in `params`."""

    def meta_named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, jax.Array]]:
        """Names and values owned by this MetaModule and the MetaModules below it, each variable once.

        The parameters of an ordinary module inside are not among them: they are not adapted.
        """
        return ((name, variable.get_value()) for name, variable in meta_variables(self, prefix, recurse))

    def meta_parameters(self, recurse: bool = True) -> Iterator[jax.Array]:
        """The values of `meta_named_parameters`."""
        return (value for _, value in self.meta_named_parameters(recurse=recurse))

    def meta_named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, jax.Array]]:
        """Names and values of all running statistics (`nnx.BatchStat`); `call_with_buffers` takes and returns them."""
        variables = _variables(self, prefix, recurse)
        own = _once((name, each) for name, each, _ in variables if isinstance(each, nnx.BatchStat))
        return ((name, variable.get_value()) for name, variable in own)

    def get_subdict(
        self, params: Mapping[str, jax.Array] | None, key: str | None = None
    ) -> dict[str, jax.Array] | None:
        """The part of `params` for the submodule `key`, with the prefix `key.` removed.

        Args:
            params: name → array for all parameters of this module, or `None`.
            key: dotted name of a submodule; `None` checks and returns all of `params`.

        Returns:
            `None` if `params` is `None`; an empty dictionary if the submodule has no meta-parameters, which is still
            a call with `params`.

        Raises:
            ValueError: if a name is unknown or missing, or there is no submodule `key`.
        """
        if params is None:
            return None
        child = _submodule(self, key or "")
        if child is None:
            children = ", ".join(name for name, value in vars(self).items() if callable(value))
            raise ValueError(f"{type(self).__name__} has no submodule {key!r}; it has {children or 'none'}.")
        parts = (key or "").split(".")
        whole = any(_owns_all(_submodule(self, ".".join(parts[:depth]))) for depth in range(len(parts)))
        inside = meta_variables(child, whole=whole) if isinstance(child, nnx.Module) else ()
        names = given_names(self, params)
        return {name: params[names[id(variable)]] for name, variable in inside}


def given_names(module: MetaModule, params: Mapping[str, Any], kind: Any = nnx.Param, argument: str = "params") -> Any:
    """Variable → its name in `params`, which must name every variable of this kind once and nothing else.

    A shared variable has several names. Any of them will do, since Flax sorts the attributes of a copy, which makes
    another name the first one.
    """
    names = aliases(module, kind)
    owner = type(module).__name__
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


def aliases(module: nnx.Module, kind: Any = nnx.Param) -> dict[int, list[str]]:
    """All names of every variable of this kind (of parameters: those that a MetaModule owns)."""
    names: dict[int, list[str]] = {}
    for name, variable, is_meta in all_variables(module):
        if isinstance(variable, kind) and (is_meta or kind is not nnx.Param):
            names.setdefault(id(variable), []).append(name)
    return names


def _submodule(module: Any, key: str) -> Any:
    """The module, or plain function such as `nnx.relu`, at the dotted path `key`, which may be empty; else `None`."""
    if not key:
        return module
    first, _, rest = key.partition(".")
    child = dict(_entries(module)).get(first)
    if rest:
        return _submodule(child, rest) if isinstance(child, (nnx.Module, *_CONTAINERS)) else None
    return child if callable(child) or isinstance(child, nnx.Module) else None


def meta_variables(
    module: nnx.Module, prefix: str = "", recurse: bool = True, whole: bool = False
) -> Iterator[tuple[str, nnx.Param]]:
    """Parameters of the MetaModules in `module` (`whole`: of everything in it), each once, by its first name."""
    variables = _variables(module, prefix, recurse, whole or _owns_all(module))
    return _once((name, each) for name, each, is_meta in variables if is_meta and isinstance(each, nnx.Param))


def _owns_all(module: object) -> bool:
    return isinstance(module, MetaModule) and module._owns_all


def buffer_values(module: nnx.Module) -> dict[str, jax.Array]:
    """Running statistics anywhere in `module` by all their names; a shared one has several."""
    variables = all_variables(module)
    return {name: each.get_value() for name, each, _ in variables if isinstance(each, nnx.BatchStat)}


def all_variables(module: nnx.Module) -> Iterator[tuple[str, nnx.Variable, bool]]:
    """(name, variable, whether a MetaModule owns it) of everything in a module, a shared one by all its names."""
    return _variables(module, "", True, _owns_all(module))


def assign(module: nnx.Module, values: Mapping[str, jax.Array]) -> None:
    """Put values into the variables of these names."""
    for name, variable, _ in all_variables(module):
        if name in values:
            variable.set_value(values[name])


def _once(variables: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    for name, variable in variables:
        if id(variable) not in seen:
            seen.add(id(variable))
            yield name, variable


_CONTAINERS = (list, tuple, dict)


def _variables(
    module: Any, prefix: str, recurse: bool, whole: bool = False
) -> Iterator[tuple[str, nnx.Variable, bool]]:
    """(name, variable, whether a MetaModule owns it), also in lists and dictionaries (`nnx.data`).

    The order is that of assignment, in a copy that of the names.
    """
    is_meta = whole or isinstance(module, MetaModule)
    for key, value in _entries(module):
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, nnx.Variable):
            yield name, value, is_meta
        elif recurse and isinstance(value, (nnx.Module, *_CONTAINERS)):
            yield from _variables(value, name, recurse, whole or _owns_all(value))


def _entries(module: Any) -> list[tuple[str, Any]]:
    """What is in a module or in a list or dictionary that it keeps, by name."""
    if isinstance(module, (list, tuple)):
        return [(str(position), value) for position, value in enumerate(module)]
    entries = module if isinstance(module, dict) else vars(module)
    return [(str(key), value) for key, value in entries.items()]


def own_parameters(layer: MetaModule, params: Mapping[str, jax.Array] | None) -> dict[str, jax.Array]:
    """The parameters a layer computes with: its own, or `params` after a check of names and shapes."""
    own = dict(layer.meta_named_parameters(recurse=False))
    if params is None:
        return own
    check_entries(params, {name: value.shape for name, value in own.items()}, type(layer).__name__)
    return dict(params)


def uniform_parameter(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    """A parameter drawn uniformly from ±1/√fan_in, the initial distribution of PyTorch's layers."""
    bound = 1.0 / math.sqrt(fan_in)
    return nnx.Param(jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound))
