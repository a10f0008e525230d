"""`MetaModule`: a Flax NNX module whose forward pass takes its parameters from outside."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import nnx

from jax_backend.modules.placement import taking_params
from jax_backend.modules.variables import given_names, meta_variables, once, owns_all, submodule, walk
from metabridge.checks import check_instance

__all__ = ["MetaModule", "own_parameters", "uniform_parameter"]


class MetaModule(nnx.Module):
    """A module whose call takes one more argument, `params=None`; the mirror of `torch_backend.modules.MetaModule`.

    With `params=None` it is an ordinary NNX module. With `params`, a mapping from the names of
    `meta_named_parameters()` to arrays, those arrays take the place of the stored parameters in the whole tree of
    modules, and the call is a pure function of `params` and its inputs: it changes no variable, neither running
    statistics nor the state of random numbers, so that dropout draws the same mask at every call unless you reseed
    the module in between.

    Names are those of PyTorch; axes are in the order JAX likes (see `jax_backend.weights`). A subclass is written as
    any module; children need not be MetaModules themselves, and are called without `params`:

        class Model(MetaModule):
            def __init__(self, rngs):
                self.features = nnx.Sequential(MetaLinear(1, 40, rngs=rngs), nnx.relu)
                self.head = MetaLinear(40, 1, rngs=rngs)

            def __call__(self, inputs):
                return self.head(self.features(inputs))

    A `__call__` with an argument `params` receives it, and may hand each child its part as in Torchmeta:
    `self.head(features, params=self.get_subdict(params, "head"))`. A child that is given other arrays than those in
    place computes with them. `as_meta_module` makes a MetaModule of a module that is already written.

    Raises:
        ValueError: in a call whose `params` lacks a name, has an unknown one, or holds an array of another shape
            (contract C10): a partial mapping is an error, never a silent use of unadapted parameters. So is a call of a
            MetaModule that the called module does not hold, which `params` cannot reach.

    Note:
        A call with `params` is not for two threads on one module at once.
    """

    _owns_all = False
    """Whether the parameters of ordinary modules inside are this module's own, to be given in `params`."""
    _takes_params_itself = False
    """Whether its call does with `params` what it likes, so that they are not put in place before it."""
    _meta_frozen = False
    """Whether normalisation with `params` uses the running statistics in training mode too."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        forward = next((vars(base)["__call__"] for base in cls.__mro__ if "__call__" in vars(base)), None)
        if not (forward is None or hasattr(forward, "takes_params") or cls._takes_params_itself):
            cls.__call__ = taking_params(forward)  # type: ignore[method-assign]

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
        found = walk(self, prefix, recurse)
        own = once((name, each) for name, each, _ in found if isinstance(each, nnx.BatchStat))
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
        child = submodule(self, key or "")
        if child is None:
            children = ", ".join(name for name, value in vars(self).items() if callable(value))
            raise ValueError(f"{type(self).__name__} has no submodule {key!r}; it has {children or 'none'}.")
        parts = (key or "").split(".")
        whole = any(owns_all(submodule(self, ".".join(parts[:depth]))) for depth in range(len(parts)))
        inside = meta_variables(child, whole=whole) if isinstance(child, nnx.Module) else ()
        names = given_names(self, params)
        return {name: params[names[id(variable)]] for name, variable in inside}


def own_parameters(layer: MetaModule) -> dict[str, jax.Array]:
    """Name → array of a layer's own parameters, without those of its children."""
    return dict(layer.meta_named_parameters(recurse=False))


def uniform_parameter(rngs: nnx.Rngs, shape: tuple[int, ...], fan_in: int) -> nnx.Param:
    """A parameter drawn uniformly from ±1/√fan_in, the initial distribution of PyTorch's layers."""
    check_instance(rngs, nnx.Rngs, "rngs", "pass for example nnx.Rngs(0)")
    bound = 1.0 / math.sqrt(fan_in)
    return nnx.Param(jax.random.uniform(rngs.params(), shape, minval=-bound, maxval=bound))
