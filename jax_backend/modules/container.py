"""`MetaSequential`: layers one after another."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jax_backend.modules.module import MetaModule

__all__ = ["MetaSequential"]


class MetaSequential(MetaModule):
    """Calls its layers in order; the mirror of `torch_backend.modules.MetaSequential`.

    `params` holds the parameters of the MetaModules among the children, named `<child>.<parameter>`, for example
    `"0.weight"`. Other layers may be any callables.

    Args:
        args: layers, named `"0"`, `"1"`, …; or one mapping name → layer.

    Raises:
        ValueError: in the call, if `params` has a missing, unknown or mis-shaped entry.
    """

    def __init__(self, *args: Callable[..., Any] | Mapping[str, Callable[..., Any]]) -> None:
        if len(args) == 1 and isinstance(args[0], Mapping):
            layers = dict(args[0])
        else:
            layers = {str(position): layer for position, layer in enumerate(args)}
        self.child_names = tuple(layers)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def __call__(self, input: Any, params: Mapping[str, jax.Array] | None = None) -> Any:
        """Pass `input` through every child in order."""
        for name in self.child_names:
            layer = getattr(self, name)
            if isinstance(layer, MetaModule):
                input = layer(input, params=self.get_subdict(params, name))
            else:
                input = layer(input)
        return input
