"""`MetaModule`: a Flax NNX module whose forward pass takes its parameters from outside."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import nnx

from metabridge.subdicts import check_names, check_shape, select_subdict

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
    """

    def meta_named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, jax.Array]]:
        """Names and values owned by this MetaModule and the MetaModules below it, each variable once.

        The parameters of an ordinary module inside are not among them: they are not adapted.
        """
        return ((name, variable.get_value()) for name, variable in _meta_variables_once(self, prefix, recurse))

    def meta_parameters(self, recurse: bool = True) -> Iterator[jax.Array]:
        """The values of `meta_named_parameters`."""
        return (value for _, value in self.meta_named_parameters(recurse=recurse))

    def get_subdict(
        self, params: Mapping[str, jax.Array] | None, key: str | None = None
    ) -> dict[str, jax.Array] | None:
        """The part of `params` for the submodule `key`, with the prefix `key.` removed.

        Args:
            params: name → array for all parameters of this module, or `None`.
            key: dotted name of a submodule; `None` checks and returns all of `params`.

        Returns:
            `None` if `params` is `None` or the submodule has no meta-parameters.

        Raises:
            ValueError: if a name is unknown or missing, or there is no submodule `key`.
        """
        if params is None:
            return None
        names = {id(variable): name for name, variable in _meta_variables_once(self)}
        child = _submodule(self, key) if key else self
        if child is None:
            children = ", ".join(name for name, value in vars(self).items() if callable(value))
            raise ValueError(f"{type(self).__name__} has no submodule {key!r}; it has {children or 'none'}.")
        wanted = (
            {name: names[id(variable)] for name, variable in _meta_variables_once(child)}
            if isinstance(child, nnx.Module)
            else {}
        )
        return select_subdict(params, wanted, names.values(), type(self).__name__)


def _submodule(module: nnx.Module, key: str) -> Any:
    """The module, or plain function such as `nnx.relu`, at the dotted path `key`; `None` if there is none."""
    first, _, rest = key.partition(".")
    if isinstance(module, nnx.List):
        child = module[int(first)] if first.isdecimal() and int(first) < len(module) else None
    else:
        child = vars(module).get(first)
    if rest:
        return _submodule(child, rest) if isinstance(child, nnx.Module) else None
    return child if callable(child) or isinstance(child, nnx.Module) else None


def _meta_variables_once(module: nnx.Module, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, nnx.Param]]:
    """`_meta_variables`, each variable once, by its first name."""
    seen: set[int] = set()
    for name, variable in _meta_variables(module, prefix, recurse):
        if id(variable) not in seen:
            seen.add(id(variable))
            yield name, variable


def _meta_variables(module: nnx.Module, prefix: str, recurse: bool) -> Iterator[tuple[str, nnx.Param]]:
    """Parameters of the MetaModules in `module`, in the order in which they were assigned."""
    children = enumerate(module) if isinstance(module, nnx.List) else vars(module).items()
    for key, value in list(children):
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, nnx.Param):
            if isinstance(module, MetaModule):
                yield name, value
        elif recurse and isinstance(value, nnx.Module):
            yield from _meta_variables(value, name, recurse)


def own_parameters(layer: MetaModule, params: Mapping[str, jax.Array] | None) -> dict[str, jax.Array]:
    """The parameters a layer computes with: its own, or `params` after a check of names and shapes."""
    own = dict(layer.meta_named_parameters(recurse=False))
    if params is None:
        return own
    owner = type(layer).__name__
    check_names(params, own, owner)
    for name, value in own.items():
        check_shape(name, params[name].shape, value.shape, owner)
    return dict(params)


def uniform_parameter(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    """A parameter drawn uniformly from ±1/√fan_in, the initial distribution of PyTorch's layers."""
    bound = 1.0 / math.sqrt(fan_in)
    return nnx.Param(jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound))
