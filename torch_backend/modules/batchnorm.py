"""Batch normalisation as MetaModules."""

from torch import nn

from torch_backend.modules.module import MetaLayer

__all__ = ["MetaBatchNorm1d", "MetaBatchNorm2d", "MetaBatchNorm3d"]


class MetaBatchNorm1d(MetaLayer, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` with `forward(input, params=None)` (Ioffe & Szegedy 2015).

    Normalise `(batch, num_features)` or `(batch, num_features, L)` per feature.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.BatchNorm1d`. `params` holds
    `weight` and `bias`, both `(num_features,)`, if the layer has them.

    Which statistics it uses with `params` is said at `MetaBatchNorm2d`.

    Raises:
        ValueError: in `forward`, for an input of other axes or with one value per feature in training mode.
        RuntimeError: in `forward`, for an input of another number of features.
    """


class MetaBatchNorm2d(MetaLayer, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with `forward(input, params=None)` (Ioffe & Szegedy 2015).

    Normalise `(batch, num_features, H, W)` per feature.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.BatchNorm2d`. `params` holds
    `weight` and `bias`, both `(num_features,)`, if the layer has them.

    With `params`, in training mode, it normalises by the statistics of the given batch (biased variance) and
    leaves the running statistics alone: adapting to a task must not change the meta-model. Torchmeta updates
    them there. In evaluation mode it uses the running statistics, if it has any, as torch does. For statistics
    of the current batch at all times, as MAML's networks use, pass `track_running_stats=False`; to follow the
    running statistics as values use `call_with_buffers`.

    Raises:
        ValueError: in `forward`, for an input of other axes or with one value per feature in training mode.
        RuntimeError: in `forward`, for an input of another number of features.
    """


class MetaBatchNorm3d(MetaLayer, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` with `forward(input, params=None)` (Ioffe & Szegedy 2015).

    Normalise `(batch, num_features, D, H, W)` per feature.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.BatchNorm3d`. `params` holds
    `weight` and `bias`, both `(num_features,)`, if the layer has them.

    Which statistics it uses with `params` is said at `MetaBatchNorm2d`.

    Raises:
        ValueError: in `forward`, for an input of other axes or with one value per feature in training mode.
        RuntimeError: in `forward`, for an input of another number of features.
    """
