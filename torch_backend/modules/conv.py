"""Convolution as a MetaModule."""

from collections.abc import Mapping

from torch import Tensor, nn

from torch_backend.modules.module import MetaModule, check_parameters

__all__ = ["MetaConv2d"]


class MetaConv2d(nn.Conv2d, MetaModule):
    """`torch.nn.Conv2d` with `forward(input, params=None)`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.Conv2d`. `params` holds
    `weight` `(out_channels, in_channels / groups, kH, kW)` and, unless `bias=False`, `bias` `(out_channels,)`.

    Raises:
        ValueError: in `forward`, if `params` has a missing, unknown or mis-shaped entry.
    """

    def forward(self, input: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Map `(batch, in_channels, H, W)` to `(batch, out_channels, H', W')`."""
        if params is None:
            return super().forward(input)
        check_parameters(self, params)
        return self._conv_forward(input, params["weight"], params.get("bias"))
