"""`params` put in place: once, at the outermost call, for the whole tree of modules."""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from metabridge.adaptation.names import check_entries, without_ordinary
from metabridge.networks.calls import CALLS, Call, ParamsArgument
from torch_backend.modules.exact import ExactDerivatives

__all__ = ["meta_entries", "placed", "taking_params"]


OLD_NORMALISATIONS = (WeightNorm, SpectralNorm)
"""Hooks that compute a weight before `forward`."""


def taking_params(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward pass with one more argument, `params`, which are in place while `forward` runs.

    A `forward` that has an argument `params` of its own, as in Torchmeta's modules, receives it.
    """
    argument = ParamsArgument(forward)

    @functools.wraps(forward)
    def call(module: Any, *inputs: Any, **options: Any) -> Any:
        params, inputs, options = argument.split(inputs, options)
        if params is None and not (CALLS.stack or module._meta_lacks_derivatives):
            return forward(module, *inputs, **options)
        with _in_place(module, params):
            return forward(module, *inputs, **options)

    call.__signature__ = argument.signature  # type: ignore[attr-defined]
    call.takes_params = True  # type: ignore[attr-defined]
    return call


def _in_place(module: Any, params: Mapping[str, Tensor] | None) -> AbstractContextManager[Any]:
    """Where a module's own forward pass runs."""
    around = CALLS.around(module)
    if params is not None and (around is None or not around.with_params or not _holds_already(module, params)):
        _check_hooks(module)
        return placed(module, params)
    if around is not None:
        context = around.context
        follows = module._meta_frozen and context is not None and context.follows_model and not context.frozen
        return ExactDerivatives(frozen=True) if follows else nullcontext()
    CALLS.check_reached(module, (name for name, _ in module.meta_named_parameters()))
    helps = module._meta_lacks_derivatives and torch.is_grad_enabled()
    return ExactDerivatives(missing_only=True) if helps else nullcontext()


def _check_hooks(module: nn.Module) -> None:
    """Refuse what computes a parameter before `forward`, and so before `params` are in place."""
    for hook in module._forward_pre_hooks.values():
        kind = type(hook).__name__
        if isinstance(hook, BasePruningMethod):
            raise ValueError(
                f"{type(module).__name__} is pruned itself ({kind}), and computes its weight before it has `params`; "
                "put it into a MetaSequential and call that."
            )
        if isinstance(hook, OLD_NORMALISATIONS):
            raise ValueError(
                f"{type(module).__name__} has old-style {kind}, which computes the weight outside the forward pass; "
                "use torch.nn.utils.parametrizations instead."
            )


def _holds_already(module: Any, params: Mapping[str, Tensor]) -> bool:
    """Whether these very tensors are in place, put there by a call around this one."""
    own = dict(module.meta_named_parameters())
    return own.keys() == params.keys() and all(params[name] is value for name, value in own.items())


@contextmanager
def placed(
    module: Any,
    params: Mapping[str, Tensor] | None,
    buffers: Mapping[str, Tensor] | None = None,
    context: ExactDerivatives | None = None,
) -> Iterator[None]:
    """Inside the `with` block the module computes with other parameters and buffers, afterwards with its own again.

    A tensor that is in several places is replaced in all of them. Not for two threads with one module, like
    `torch.func.functional_call`, which would call the module's hooks once more.

    Args:
        module: a MetaModule.
        params: name → tensor for all its parameters; `None` for the stored ones.
        buffers: name in `named_buffers()` → tensor; `None` for those in place, of which copies take what is written.
        context: in which operations are computed; `None` for that of the call around this one, or a new one.

    Raises:
        ValueError: if `params` does not fit the module, see `MetaModule`.
    """
    replaced: dict[int, Tensor] = {}
    if params is not None:
        params = _checked(module, params)
        replaced |= _distinct({id(own): params[name] for name, own in module.meta_named_parameters()})
    around = CALLS.around(module)
    if buffers is not None:
        replaced |= {id(own): buffers[name] for name, own in module.named_buffers()}
    elif around is None:
        replaced |= {id(own): own.clone() for own in module.buffers()}
    if context is None and not module._meta_is_exact:
        if around is None or around.context is None:
            context = ExactDerivatives(module._meta_frozen, follows_model=True)
        elif module._meta_frozen and around.context.follows_model:
            context = ExactDerivatives(frozen=True)
    call = Call(
        owner=type(module).__name__,
        members=frozenset(id(each) for each in module.modules()),
        with_params=params is not None,
        context=context or (around.context if around else None),
    )
    with _substituted(module, replaced), context or nullcontext():
        CALLS.stack.append(call)
        try:
            yield
        finally:
            CALLS.stack.pop()


def meta_entries(module: Any, params: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """`params` without the parameters of ordinary modules in a MetaModule, see `without_ordinary`."""
    own = dict(module.meta_named_parameters())

    def ordinary() -> dict[str, Tensor]:
        meta = {id(each) for each in own.values()}
        found = module.named_parameters(remove_duplicate=False)
        return {name: value for name, value in found if id(value) not in meta}

    return without_ordinary(params, own, ordinary, type(module).__name__)


def _checked(module: Any, params: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The entries of `params` that replace parameters, if they fit."""
    owner = type(module).__name__
    params = meta_entries(module, params)
    for name, value in params.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"`params[{name!r}]` of {owner} must be a tensor, got {type(value).__name__}.")
    check_entries(params, {name: own.shape for name, own in module.meta_named_parameters()}, owner)
    return params


def _distinct(tensors: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Views of tensors that occur again: one tensor in two places would pass for one tied parameter."""
    seen: set[int] = set()
    distinct = {}
    for key, tensor in tensors.items():
        distinct[key] = tensor.view_as(tensor) if id(tensor) in seen else tensor
        seen.add(id(tensor))
    return distinct


@contextmanager
def _substituted(module: nn.Module, replaced: Mapping[int, Tensor]) -> Iterator[None]:
    """Inside the `with` block other tensors are in the places of those of these identities."""
    stores = [store for each in module.modules() for store in (each._parameters, each._buffers) if store]
    saved = [dict(store) for store in stores]
    try:
        for store in stores:
            for name, value in store.items():
                if value is not None and id(value) in replaced:
                    store[name] = replaced[id(value)]  # type: ignore[assignment]  # no Parameter, on purpose
        yield
    finally:
        for store, values in zip(stores, saved, strict=True):
            store.clear()
            store.update(values)  # type: ignore[arg-type]
