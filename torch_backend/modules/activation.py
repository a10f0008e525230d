"""Activations with parameters as MetaModules."""

from torch import nn

from torch_backend.modules.module import MetaLayer

__all__ = ["MetaPReLU"]


class MetaPReLU(MetaLayer, nn.PReLU):
    """`torch.nn.PReLU` with `forward(input, params=None)`: `x` if positive, else `weight · x` (He et al. 2015).

    Map `(batch, channels, ...)` to the same shape.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.PReLU`. `params` holds `weight`
    `(num_parameters,)`, one for all or one per channel.
    """
