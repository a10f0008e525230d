"""`as_meta_module`: a MetaModule of a module that is already written."""

import functools
import inspect
from typing import Any

from flax import nnx

from jax_backend.modules.module import MetaModule
from metabridge.adaptation.batchnorm_policies import BatchNormPolicy, check_policy

__all__ = ["as_meta_module"]


def as_meta_module(module: nnx.Module, batch_norm: BatchNormPolicy = "batch") -> MetaModule:
    """A MetaModule that computes what `module` computes, and takes `params`.

    Any Flax NNX module will do: Flax's own layers, your classes, modules that share layers or tie parameters. The
    result is an instance of the module's own class as well. It shares all attributes with `module`: an optimiser of
    the one is one of the other, and so are `train()` and `eval()`.

    `params` holds all `nnx.Param`s, by their dotted paths; a tied parameter has one name. To adapt only some, name
    them in `gradient_update_parameters(…, names="head.*")`; to call with only some, complete them first with
    `complete_parameters`.

        >>> import numpy as np
        >>> model = as_meta_module(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
        >>> params = dict(model.meta_named_parameters())
        >>> sorted(params)
        ['bias', 'kernel']
        >>> model(np.zeros((4, 3)), params=params).shape
        (4, 2)

    Args:
        module: the module.
        batch_norm: by which statistics batch normalisation works with `params` in training mode. `"batch"`: those
            of the batch at hand. `"frozen"`: the running ones, as in evaluation mode. For statistics of every inner
            step use `adapt(…, batch_norm="per-step")`.

    Raises:
        ValueError: for what cannot take parameters from outside: a MetaModule (it already does), what is no
            `nnx.Module`, one that cannot be called or whose call has an argument `params`; and for an unknown policy.
    """
    check_policy(batch_norm, ("batch", "frozen"))
    _check_possible(module)
    meta_class = _meta_class(type(module), batch_norm == "frozen")
    meta = meta_class.__new__(meta_class)
    object.__setattr__(meta, "__dict__", vars(module))  # shared: a change of the one is one of the other
    return meta


def _check_possible(module: nnx.Module) -> None:
    kind = type(module).__name__
    if not isinstance(module, nnx.Module):
        raise ValueError(f"`module` must be a flax.nnx.Module, got {kind}; other pure functions go into MAML directly.")
    if isinstance(module, MetaModule):
        raise ValueError(f"`module` must be an ordinary module, got {kind}, which is a MetaModule; use it as it is.")
    if not callable(module):
        raise ValueError(f"`module` must be callable, got {kind}; give it a method __call__.")
    if "params" in inspect.signature(type(module).__call__).parameters:
        raise ValueError(
            f"{kind}.__call__ already has an argument `params`; rename it, or derive {kind} from MetaModule."
        )


class _AnyMetaModule(MetaModule):
    _meta_base: type[nnx.Module]
    _owns_all = True

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled and copied as the class it was made of, which can be imported by name."""
        del protocol
        return _restore, (self._meta_base, self._meta_frozen, vars(self))


def _restore(base: type[nnx.Module], frozen: bool, attributes: dict[str, Any]) -> Any:
    meta_class = _meta_class(base, frozen)
    meta = meta_class.__new__(meta_class)
    vars(meta).update(attributes)
    return meta


@functools.cache
def _meta_class(base: type[nnx.Module], frozen: bool) -> Any:
    members = {"__doc__": base.__doc__, "__module__": base.__module__, "_meta_base": base, "_meta_frozen": frozen}
    metaclass: Any = type(base)
    return metaclass(f"MetaModule[{base.__name__}]", (_AnyMetaModule, base), members)
