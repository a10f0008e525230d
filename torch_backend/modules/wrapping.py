"""`as_meta_module`: a MetaModule of a module that is already written."""

import functools
import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.utils.prune import BasePruningMethod

from metabridge.adaptation.batchnorm_policies import BatchNormPolicy, check_policy
from torch_backend.modules.module import MetaLayer, MetaModule
from torch_backend.modules.placement import OLD_NORMALISATIONS

__all__ = ["as_meta_module"]


def as_meta_module(module: nn.Module, batch_norm: BatchNormPolicy = "batch") -> MetaModule:
    """A MetaModule that computes what `module` computes, and takes `params`.

    Any module will do: torchvision's networks, your own classes, modules that share layers or tie parameters.
    The result is an instance of the module's own class as well. It shares parameters, buffers and submodules with
    `module`, under the same names, so state dicts interchange and an optimiser of the one is one of the other.

    A call without `params` is the module's own; only what has no second derivative in torch (fused attention, cuDNN's
    recurrent layers, embedding bags, …) is computed in another way while gradients are on, since an inner loop begins
    with such a call.

    `params` holds all parameters, by the names of `module.named_parameters()`; a tied parameter has one name.
    To adapt only some, name them in `gradient_update_parameters(…, names="fc.*")`; to call with only some, complete
    them first with `complete_parameters`. The call never changes a buffer when `params` are given.

        >>> from torchvision.models import resnet18
        >>> model = as_meta_module(resnet18(num_classes=5))
        >>> params = dict(model.meta_named_parameters())
        >>> model(torch.zeros(2, 3, 32, 32), params=params).shape
        torch.Size([2, 5])

    Args:
        module: the module.
        batch_norm: by which statistics batch and instance normalisation work with `params` in training mode.
            `"batch"`: those of the batch at hand. `"frozen"`: the running ones, as in evaluation mode. For
            statistics of every inner step use `adapt(…, batch_norm="per-step")`.

    Raises:
        ValueError: for what cannot take parameters from outside: a MetaModule (it already does), a TorchScript,
            compiled or traced module, one whose parameters are not made yet or kept in a plain list, a parallel
            wrapper, old-style weight or spectral normalisation; and for an unknown policy.

    Note:
        A call with `params` is not for two threads on one module at once.
    """
    check_policy(batch_norm, ("batch", "frozen"))
    _check_possible(module)
    meta = _empty_instance(type(module), batch_norm == "frozen")
    object.__setattr__(meta, "__dict__", module.__dict__)  # shared: a change of the one is one of the other
    return meta


def _check_possible(module: nn.Module) -> None:
    kind = type(module).__name__
    if not isinstance(module, nn.Module):
        raise ValueError(f"`module` must be a torch.nn.Module, got {kind}.")
    if isinstance(module, MetaModule):
        raise ValueError(f"`module` must be an ordinary module, got {kind}, which is a MetaModule; use it as it is.")
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise ValueError(
            f"`module` must be the module inside, got {kind}, which copies stored parameters; "
            "make module.module a MetaModule and wrap it in torch_backend.modules.DataParallel."
        )
    for name, each in module.named_modules():
        where = f"{name!r} of {kind}" if name else kind
        if isinstance(each, torch.jit.ScriptModule):
            raise ValueError(f"{where} is compiled TorchScript, which keeps its parameters; use the Python module.")
        if any(isinstance(value, nn.UninitializedParameter) for value in each._parameters.values()):
            raise ValueError(f"{where} has no parameters yet; call the module once on an example first.")
        for hook in each._forward_pre_hooks.values():
            if isinstance(hook, OLD_NORMALISATIONS):
                raise ValueError(
                    f"{where} has old-style {type(hook).__name__}, which computes the weight outside the forward pass; "
                    f"use torch.nn.utils.parametrizations instead."
                )
    _check_root(module)
    if "params" in inspect.signature(type(module).forward).parameters:
        raise ValueError(
            f"{kind}.forward already has an argument `params`; rename it, or derive {kind} from MetaModule."
        )


def _check_root(module: nn.Module) -> None:
    """What happens outside the class's own `forward` does not see given parameters."""
    kind = type(module).__name__
    replaced = "forward" in vars(module) or getattr(module, "_compiled_call_impl", None) is not None
    if replaced or hasattr(module, "_orig_mod") or isinstance(module, torch.fx.GraphModule):
        raise ValueError(
            f"`module` must be the module as it was written, got {kind}, whose forward pass was compiled, traced or "
            "replaced; make a MetaModule first and compile the call of that."
        )
    if any(isinstance(hook, BasePruningMethod) for hook in module._forward_pre_hooks.values()):
        raise ValueError(f"`module` must not be pruned itself, got {kind}; put it into an nn.Sequential.")
    for name, each in module.named_modules():
        for attribute, value in vars(each).items():
            inside = value if isinstance(value, (list, tuple)) else value.values() if isinstance(value, dict) else ()
            if attribute not in _STORES and any(isinstance(item, nn.Parameter) for item in inside):
                raise ValueError(
                    f"{name or kind}.{attribute} keeps parameters where they cannot be replaced; use nn.ParameterList "
                    "or nn.ParameterDict."
                )


_STORES = {"_parameters", "_flat_weights"}  # recurrent layers look whether their flat weights are still their own


class _AnyMetaModule(MetaLayer):
    _meta_base: type[nn.Module]
    _meta_lacks_derivatives = True

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled and copied as the class it was made of, which can be imported by name."""
        del protocol
        return _empty_instance, (type(self)._meta_base, type(self)._meta_frozen), self.__getstate__()


@functools.cache
def _meta_class(base: type[nn.Module], frozen: bool) -> type[_AnyMetaModule]:
    members = {"__doc__": base.__doc__, "__module__": base.__module__, "_meta_base": base, "_meta_frozen": frozen}
    return type(f"MetaModule[{base.__name__}]", (_AnyMetaModule, base), members)


def _empty_instance(base: type[nn.Module], frozen: bool) -> Any:
    meta_class = _meta_class(base, frozen)  # type: ignore[arg-type]  # mypy mistakes Module.__hash__ for the class's own
    return meta_class.__new__(meta_class)
