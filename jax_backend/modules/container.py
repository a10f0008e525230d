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
        ValueError: in the call, if `params` has a missing, unknown or mis-shaped entry, or one of a
            MetaModule inside a child that is no MetaModule and so cannot pass it on.
    """

    def __init__(self, *args: Callable[..., Any] | Mapping[str, Callable[..., Any]]) -> None:
        if len(args) == 1 and isinstance(args[0], Mapping):
            layers: dict[str, Any] = dict(args[0])
        else:
            layers = {str(position): layer for position, layer in enumerate(args)}
        self.child_names = tuple(layers)
        for name, layer in layers.items():
            setattr(self, name, layer)

    def __call__(self, input: Any, params: Mapping[str, jax.Array] | None = None) -> Any:
        """Pass `input` through every child in order."""
        for name in self.child_names:
            layer = getattr(self, name)
            own = self.get_subdict(params, name)
            if isinstance(layer, MetaModule):
                input = layer(input, params=own)
            elif own is None:
                input = layer(input)
            else:
                raise ValueError(
                    f"MetaSequential cannot hand `params` to its child {name!r}: it contains MetaModules, but "
                    f"{type(layer).__name__} is no MetaModule; use MetaSequential or a MetaModule of your own."
                )
        return input
