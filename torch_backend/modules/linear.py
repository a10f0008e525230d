"""Affine and bilinear layers as MetaModules."""

from torch import nn

from torch_backend.modules.module import MetaLayer

__all__ = ["MetaBilinear", "MetaLinear"]


class MetaLinear(MetaLayer, nn.Linear):
    """`torch.nn.Linear` with `forward(input, params=None)`: `x Wᵀ + b`.

    Map `(..., in_features)` to `(..., out_features)`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.Linear`. `params` holds
    `weight` `(out_features, in_features)` and, unless `bias=False`, `bias` `(out_features,)`.
    """

    _meta_is_exact = True


class MetaBilinear(MetaLayer, nn.Bilinear):
    """`torch.nn.Bilinear` with `forward(input1, input2, params=None)`: `x₁ᵀ A x₂ + b`.

    Map `(..., in1_features)` and `(..., in2_features)` to `(..., out_features)`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.Bilinear`. `params` holds
    `weight` `(out_features, in1_features, in2_features)` and, unless `bias=False`, `bias` `(out_features,)`.
    """
