"""`MetaSequential`: layers one after another."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from torch_backend.modules.module import MetaModule

__all__ = ["MetaSequential"]


class MetaSequential(nn.Sequential, MetaModule):
    """`torch.nn.Sequential` with `forward(input, params=None)`.

    `params` holds the parameters of the MetaModules among the children, named `<child>.<parameter>`, for example
    `"0.weight"`. Children that are no MetaModules keep their own parameters.

    Raises:
        ValueError: in `forward`, if `params` has a missing, unknown or mis-shaped entry.
    """

    def forward(self, input: Any, params: Mapping[str, Tensor] | None = None) -> Any:
        """Pass `input` through every child in order."""
        for name, module in self.named_children():
            if isinstance(module, MetaModule):
                input = module(input, params=self.get_subdict(params, name))
            else:
                input = module(input)
        return input
