"""Layer, group, instance and root-mean-square normalisation as MetaModules."""

from torch import Tensor, nn

from torch_backend.modules.module import MetaLayer

__all__ = [
    "MetaGroupNorm",
    "MetaInstanceNorm1d",
    "MetaInstanceNorm2d",
    "MetaInstanceNorm3d",
    "MetaLayerNorm",
    "MetaRMSNorm",
]


class MetaLayerNorm(MetaLayer, nn.LayerNorm):
    """`torch.nn.LayerNorm` with `forward(input, params=None)` (Ba, Kiros & Hinton 2016).

    Normalise `(..., *normalized_shape)` over its last axes.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.LayerNorm`. `params` holds
    `weight` and `bias`, both of `normalized_shape`, if the layer has them.
    """


class MetaGroupNorm(MetaLayer, nn.GroupNorm):
    """`torch.nn.GroupNorm` with `forward(input, params=None)` (Wu & He 2018).

    Normalise `(batch, num_channels, ...)` per example and group of channels.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.GroupNorm`. `params` holds
    `weight` and `bias`, both `(num_channels,)`, if the layer has them.
    """

    _meta_is_exact = True


class MetaInstanceNorm1d(MetaLayer, nn.InstanceNorm1d):
    """`torch.nn.InstanceNorm1d` with `forward(input, params=None)` (Ulyanov et al. 2016).

    Normalise `(batch, num_features, L)`, or without batch, per example and feature.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.InstanceNorm1d`. `params` holds
    `weight` and `bias`, both `(num_features,)`, with `affine=True`, else nothing.

    With `track_running_stats=True` the statistics are handled as in `MetaBatchNorm2d`.

    Raises:
        ValueError: in `forward`, for an input of other axes or of one value per feature.
    """


class MetaInstanceNorm2d(MetaLayer, nn.InstanceNorm2d):
    """`torch.nn.InstanceNorm2d` with `forward(input, params=None)` (Ulyanov et al. 2016).

    Normalise `(batch, num_features, H, W)`, or without batch, per example and feature.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.InstanceNorm2d`. `params` holds
    `weight` and `bias`, both `(num_features,)`, with `affine=True`, else nothing.

    With `track_running_stats=True` the statistics are handled as in `MetaBatchNorm2d`.

    Raises:
        ValueError: in `forward`, for an input of other axes or of one value per feature.
    """


class MetaInstanceNorm3d(MetaLayer, nn.InstanceNorm3d):
    """`torch.nn.InstanceNorm3d` with `forward(input, params=None)` (Ulyanov et al. 2016).

    Normalise `(batch, num_features, D, H, W)`, or without batch, per example and feature.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.InstanceNorm3d`. `params` holds
    `weight` and `bias`, both `(num_features,)`, with `affine=True`, else nothing.

    With `track_running_stats=True` the statistics are handled as in `MetaBatchNorm2d`.

    Raises:
        ValueError: in `forward`, for an input of other axes or of one value per feature.
    """


class MetaRMSNorm(MetaLayer, nn.RMSNorm):
    """`torch.nn.RMSNorm` with `forward(input, params=None)` (Zhang & Sennrich 2019).

    Constructor, state dict and behaviour without `params` are those of `torch.nn.RMSNorm`. `params` holds
    `weight`, of `normalized_shape`, unless `elementwise_affine=False`.
    """

    _meta_is_exact = True

    def forward(self, input: Tensor) -> Tensor:
        """Divide `(..., *normalized_shape)` by its root mean square over the last axes."""
        return super().forward(input)
