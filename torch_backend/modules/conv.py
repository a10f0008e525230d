"""Convolutions and transposed convolutions as MetaModules."""

from collections.abc import Mapping

from torch import Tensor, nn

from torch_backend.modules.layer import MetaLayer

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

    Constructor, state dict and behaviour without `params` are those of `torch.nn.Conv1d`. `params` holds
    `weight` `(out_channels, in_channels / groups, kL)` and, unless `bias=False`, `bias` `(out_channels,)`.

    Raises:
        ValueError: in `forward`, if `params` has a missing, unknown or mis-shaped entry.
    """

    _meta_is_exact = True

    def forward(self, input: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Map `(batch, in_channels, L)` to `(batch, out_channels, L')`."""
        return self._meta_run(params, input)


class MetaConv2d(MetaLayer, nn.Conv2d):
    """`torch.nn.Conv2d` with `forward(input, params=None)`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.Conv2d`. `params` holds
    `weight` `(out_channels, in_channels / groups, kH, kW)` and, unless `bias=False`, `bias` `(out_channels,)`.

    Raises:
        ValueError: in `forward`, if `params` has a missing, unknown or mis-shaped entry.
    """

    _meta_is_exact = True

    def forward(self, input: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Map `(batch, in_channels, H, W)` to `(batch, out_channels, H', W')`."""
        return self._meta_run(params, input)


class MetaConv3d(MetaLayer, nn.Conv3d):
    """`torch.nn.Conv3d` with `forward(input, params=None)`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.Conv3d`. `params` holds
    `weight` `(out_channels, in_channels / groups, kD, kH, kW)` and, unless `bias=False`, `bias` `(out_channels,)`.

    Raises:
        ValueError: in `forward`, if `params` has a missing, unknown or mis-shaped entry.
    """

    _meta_is_exact = True

    def forward(self, input: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Map `(batch, in_channels, D, H, W)` to `(batch, out_channels, D', H', W')`."""
        return self._meta_run(params, input)


class MetaConvTranspose1d(MetaLayer, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` with `forward(input, output_size=None, params=None)`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.ConvTranspose1d`. `params` holds
    `weight` `(in_channels, out_channels / groups, kL)` and, unless `bias=False`, `bias` `(out_channels,)`.

    `output_size`, the spatial shape of the output, decides among the possible ones if the stride is more than 1.

    Raises:
        ValueError: in `forward`, for an impossible `output_size`, or if `params` has a missing, unknown or mis-shaped
            entry.
    """

    _meta_is_exact = True

    def forward(
        self, input: Tensor, output_size: list[int] | None = None, params: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Map `(batch, in_channels, L)` to `(batch, out_channels, L')`."""
        return self._meta_run(params, input, output_size)


class MetaConvTranspose2d(MetaLayer, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` with `forward(input, output_size=None, params=None)`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.ConvTranspose2d`. `params` holds
    `weight` `(in_channels, out_channels / groups, kH, kW)` and, unless `bias=False`, `bias` `(out_channels,)`.

    `output_size`, the spatial shape of the output, decides among the possible ones if the stride is more than 1.

    Raises:
        ValueError: in `forward`, for an impossible `output_size`, or if `params` has a missing, unknown or mis-shaped
            entry.
    """

    _meta_is_exact = True

    def forward(
        self, input: Tensor, output_size: list[int] | None = None, params: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Map `(batch, in_channels, H, W)` to `(batch, out_channels, H', W')`."""
        return self._meta_run(params, input, output_size)


class MetaConvTranspose3d(MetaLayer, nn.ConvTranspose3d):
    """`torch.nn.ConvTranspose3d` with `forward(input, output_size=None, params=None)`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.ConvTranspose3d`. `params` holds
    `weight` `(in_channels, out_channels / groups, kD, kH, kW)` and, unless `bias=False`, `bias` `(out_channels,)`.

    `output_size`, the spatial shape of the output, decides among the possible ones if the stride is more than 1.

    Raises:
        ValueError: in `forward`, for an impossible `output_size`, or if `params` has a missing, unknown or mis-shaped
            entry.
    """

    _meta_is_exact = True

    def forward(
        self, input: Tensor, output_size: list[int] | None = None, params: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Map `(batch, in_channels, D, H, W)` to `(batch, out_channels, D', H', W')`."""
        return self._meta_run(params, input, output_size)
