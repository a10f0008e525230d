"""Containers of MetaModules."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from torch_backend.modules.module import MetaModule

__all__ = ["MetaModuleDict", "MetaModuleList", "MetaSequential"]


class MetaSequential(nn.Sequential, MetaModule):
    """`torch.nn.Sequential` with `forward(input, params=None)`.

    `params` holds the parameters of the MetaModules among the children, named `<child>.<parameter>`, for example
    `"0.weight"`. Children that are no MetaModules keep their own parameters.

    Raises:
        ValueError: in `forward`, if `params` has a missing, unknown or mis-shaped entry, or one of a
            MetaModule inside a child that is no MetaModule and so cannot pass it on.
    """

    def forward(self, input: Any, params: Mapping[str, Tensor] | None = None) -> Any:
        """Pass `input` through every child in order."""
        for name, module in self._modules.items():  # a layer that is there twice runs twice
            own = self.get_subdict(params, name)
            if isinstance(module, MetaModule):
                input = module(input, params=own)
            elif not own:
                input = module(input)
            else:
                raise ValueError(
                    f"MetaSequential cannot hand `params` to its child {name!r}: it contains MetaModules, but "
                    f"{type(module).__name__} is no MetaModule; use MetaSequential or a MetaModule of your own."
                )
        return input


class MetaModuleList(nn.ModuleList, MetaModule):
    """`torch.nn.ModuleList` whose MetaModules are found: their parameters are named `"0.weight"`, `"1.weight"`, ….

    It has no forward pass. A module that holds one hands each child its part:
    `for i, layer in enumerate(self.layers): x = layer(x, params=self.get_subdict(params, f"layers.{i}"))`.
    """


class MetaModuleDict(nn.ModuleDict, MetaModule):
    """`torch.nn.ModuleDict` whose MetaModules are found: their parameters are named `"<key>.weight"`.

    It has no forward pass. A module that holds one hands each child its part:
    `self.heads[key](x, params=self.get_subdict(params, f"heads.{key}"))`.
    """
