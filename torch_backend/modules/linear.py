"""The affine layer as a MetaModule."""

from collections.abc import Mapping

from torch import Tensor, nn

from torch_backend.modules.module import MetaModule, call_with

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
        return super().forward(input) if params is None else call_with(self, params, input)
