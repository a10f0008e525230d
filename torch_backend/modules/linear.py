"""Affine and bilinear layers as MetaModules."""

from collections.abc import Mapping

from torch import Tensor, nn

from torch_backend.modules.layer import MetaLayer

__all__ = ["MetaBilinear", "MetaLinear"]


class MetaLinear(MetaLayer, nn.Linear):
    """`torch.nn.Linear` with `forward(input, params=None)`: `x Wᵀ + b`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.Linear`. `params` holds
    `weight` `(out_features, in_features)` and, unless `bias=False`, `bias` `(out_features,)`.

    Raises:
        ValueError: in `forward`, if `params` has a missing, unknown or mis-shaped entry.
    """

    _meta_is_exact = True

    def forward(self, input: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Map `(..., in_features)` to `(..., out_features)`."""
        return self._meta_run(params, input)


class MetaBilinear(MetaLayer, nn.Bilinear):
    """`torch.nn.Bilinear` with `forward(input1, input2, params=None)`: `x₁ᵀ A x₂ + b`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.Bilinear`. `params` holds
    `weight` `(out_features, in1_features, in2_features)` and, unless `bias=False`, `bias` `(out_features,)`.

    Raises:
        ValueError: in `forward`, if `params` has a missing, unknown or mis-shaped entry.
    """

    def forward(self, input1: Tensor, input2: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Map `(..., in1_features)` and `(..., in2_features)` to `(..., out_features)`."""
        return self._meta_run(params, input1, input2)
