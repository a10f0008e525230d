"""The affine layer as a MetaModule."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from torch_backend.modules.module import MetaModule, check_parameters

__all__ = ["MetaLinear"]


class MetaLinear(nn.Linear, MetaModule):
    """`torch.nn.Linear` with `forward(input, params=None)`: `x Wᵀ + b`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.Linear`. `params` holds
    `weight` `(out_features, in_features)` and, unless `bias=False`, `bias` `(out_features,)`.

    Raises:
        ValueError: in `forward`, if `params` has a missing, unknown or mis-shaped entry.
    """

    def forward(self, input: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Map `(..., in_features)` to `(..., out_features)`."""
        if params is None:
            return super().forward(input)
        check_parameters(self, params)
        return F.linear(input, params["weight"], params.get("bias"))
