"""`MetaLayer`: the one way in which a finished torch module gets to compute with parameters from outside."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from metabridge.adaptation.names import check_entries
from torch_backend.modules.exact import ExactDerivatives
from torch_backend.modules.module import MetaModule

__all__ = ["MetaLayer", "substituted"]


class MetaLayer(MetaModule):
    """Comes before a torch class among the bases and runs that class's own `forward` with given parameters.

    So a layer with `params` does what torch's layer does, option by option. All parameters inside are its own,
    those of ordinary modules in it included.
    """

    _owns_all = True
    _meta_is_exact = False
    """Whether torch's own derivatives are right at second order, so that `ExactDerivatives` would only cost time."""
    _meta_lacks_derivatives = False
    """Whether torch may have no second derivative, so that it needs help also for the step that starts from the stored
    parameters."""
    _meta_frozen = False
    """Whether normalisation with `params` uses the running statistics in training mode too."""
    _meta_within: ExactDerivatives | None = None
    """The context of a surrounding `call_with_buffers`, which has put the buffers in place already."""

    def _meta_run(self, params: Mapping[str, Tensor] | None, *inputs: Any, **options: Any) -> Any:
        """The forward pass of the torch class behind this one; for subclasses' `forward`."""
        forward = super().forward
        within = self._meta_within
        if params is None:
            help_out = self._meta_lacks_derivatives and torch.is_grad_enabled() and not within
            with ExactDerivatives(missing_only=True) if help_out else nullcontext():
                return forward(*inputs, **options)
        check_parameters(self, params)
        if self._meta_is_exact and not (self._buffers or self._modules):
            with substituted(self, params):
                return forward(*inputs, **options)
        buffers = {} if within else {name: each.clone() for name, each in self.named_buffers()}
        own_context = not within or (self._meta_frozen and within.follows_model)
        context = ExactDerivatives(self._meta_frozen) if own_context else nullcontext()
        with substituted(self, params, buffers), context:
            return forward(*inputs, **options)


def check_parameters(module: MetaModule, params: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` unless `params` holds exactly the module's parameters, each a tensor in its shape."""
    owner = type(module).__name__
    for name, value in params.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"`params[{name!r}]` of {owner} must be a tensor, got {type(value).__name__}.")
    check_entries(params, {name: each.shape for name, each in module.meta_named_parameters()}, owner)


@contextmanager
def substituted(
    module: nn.Module, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor] | None = None
) -> Iterator[None]:
    """Inside the `with` block the module holds other parameters and buffers, afterwards its own again.

    A tensor that is in several places is replaced in all of them. Not for two threads with one module, like
    `torch.func.functional_call`, which would call the module's hooks once more.

    Args:
        module: any module.
        params: name in `named_parameters()` → tensor.
        buffers: name in `named_buffers()` → tensor; the others stay.
    """
    given = {id(parameter): params[name] for name, parameter in module.named_parameters() if name in params}
    given |= (
        {id(buffer): buffers[name] for name, buffer in module.named_buffers() if name in buffers} if buffers else {}
    )
    stores = [store for each in module.modules() for store in (each._parameters, each._buffers) if store]
    saved = [dict(store) for store in stores]
    try:
        for store in stores:
            for name, value in store.items():
                if value is not None and id(value) in given:
                    store[name] = given[id(value)]  # type: ignore[assignment]  # no Parameter, on purpose
        yield
    finally:
        for store, values in zip(stores, saved, strict=True):
            store.clear()
            store.update(values)  # type: ignore[arg-type]
