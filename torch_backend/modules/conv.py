"""Convolutions and transposed convolutions as MetaModules."""

from torch import nn

from torch_backend.modules.module import MetaLayer

__all__ = [
    "MetaConv1d",
    "MetaConv2d",
    "MetaConv3d",
    "MetaConvTranspose1d",
    "MetaConvTranspose2d",
    "MetaConvTranspose3d",
]


class MetaConv1d(MetaLayer, nn.Conv1d):
    """`torch.nn.Conv1d` with `forward(input, params=None)`.

    Map `(batch, in_channels, L)` to `(batch, out_channels, L')`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.Conv1d`. `params` holds
    `weight` `(out_channels, in_channels / groups, kL)` and, unless `bias=False`, `bias` `(out_channels,)`.
    """

    _meta_is_exact = True


class MetaConv2d(MetaLayer, nn.Conv2d):
    """`torch.nn.Conv2d` with `forward(input, params=None)`.

    Map `(batch, in_channels, H, W)` to `(batch, out_channels, H', W')`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.Conv2d`. `params` holds
    `weight` `(out_channels, in_channels / groups, kH, kW)` and, unless `bias=False`, `bias` `(out_channels,)`.
    """

    _meta_is_exact = True


class MetaConv3d(MetaLayer, nn.Conv3d):
    """`torch.nn.Conv3d` with `forward(input, params=None)`.

    Map `(batch, in_channels, D, H, W)` to `(batch, out_channels, D', H', W')`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.Conv3d`. `params` holds
    `weight` `(out_channels, in_channels / groups, kD, kH, kW)` and, unless `bias=False`, `bias` `(out_channels,)`.
    """

    _meta_is_exact = True


class MetaConvTranspose1d(MetaLayer, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` with `forward(input, output_size=None, params=None)`.

    Map `(batch, in_channels, L)` to `(batch, out_channels, L')`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.ConvTranspose1d`. `params` holds
    `weight` `(in_channels, out_channels / groups, kL)` and, unless `bias=False`, `bias` `(out_channels,)`.

    `output_size`, the spatial shape of the output, decides among the possible ones if the stride is more than 1.

    Raises:
        ValueError: in `forward`, for an impossible `output_size`.
    """

    _meta_is_exact = True


class MetaConvTranspose2d(MetaLayer, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` with `forward(input, output_size=None, params=None)`.

    Map `(batch, in_channels, H, W)` to `(batch, out_channels, H', W')`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.ConvTranspose2d`. `params` holds
    `weight` `(in_channels, out_channels / groups, kH, kW)` and, unless `bias=False`, `bias` `(out_channels,)`.

    `output_size`, the spatial shape of the output, decides among the possible ones if the stride is more than 1.

    Raises:
        ValueError: in `forward`, for an impossible `output_size`.
    """

    _meta_is_exact = True


class MetaConvTranspose3d(MetaLayer, nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d` with `forward(input, output_size=None, params=None)`.

    Map `(batch, in_channels, D, H, W)` to `(batch, out_channels, D', H', W')`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.ConvTranspose3d`. `params` holds
    `weight` `(in_channels, out_channels / groups, kD, kH, kW)` and, unless `bias=False`, `bias` `(out_channels,)`.

    `output_size`, the spatial shape of the output, decides among the possible ones if the stride is more than 1.

    Raises:
        ValueError: in `forward`, for an impossible `output_size`.
    """

    _meta_is_exact = True
