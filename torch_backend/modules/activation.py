"""Activations with parameters as MetaModules."""

from collections.abc import Mapping

from torch import Tensor, nn

from torch_backend.modules.layer import MetaLayer

__all__ = ["MetaPReLU"]


class MetaPReLU(MetaLayer, nn.PReLU):
    """`torch.nn.PReLU` with `forward(input, params=None)`: `x` if positive, else `weight · x` (He et al. 2015).

    Constructor, state dict and behaviour without `params` are those of `torch.nn.PReLU`. `params` holds `weight`
    `(num_parameters,)`, one for all or one per channel.

    Raises:
        ValueError: in `forward`, if `params` has a missing, unknown or mis-shaped entry.
    """

    def forward(self, input: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Map `(batch, channels, ...)` to the same shape."""
        return self._meta_run(params, input)
