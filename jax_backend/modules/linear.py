"""The affine and the bilinear layer as MetaModules."""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jax_backend.modules.module import MetaModule, own_parameters, uniform_parameter
from metabridge.checks import check_count

__all__ = ["MetaBilinear", "MetaLinear"]


class MetaLinear(MetaModule):
    """`x W + b`, with the initial distribution of `torch.nn.Linear`.

    `params` holds `weight` `(in_features, out_features)` and, unless `bias=False`, `bias` `(out_features,)`.

    >>> MetaLinear(3, 2, rngs=nnx.Rngs(0)).weight.shape
    (3, 2)

    Args:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.
        bias: whether to add a bias.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: in the call, for an input of other features.
    """

    neutral_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {"weight": (1, 0)}

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, rngs: nnx.Rngs) -> None:
        check_count(in_features, "in_features")
        check_count(out_features, "out_features", least=0)
        self.weight = uniform_parameter(rngs, (in_features, out_features), in_features)
        if bias:
            self.bias = uniform_parameter(rngs, (out_features,), in_features)

    def __call__(self, input: jax.Array) -> jax.Array:
        """Map `(..., in_features)` to `(..., out_features)`."""
        own = own_parameters(self)
        _check_features("input", input, len(own["weight"]))
        output = input @ own["weight"]
        return output + own["bias"] if "bias" in own else output


class MetaBilinear(MetaModule):
    """`x₁ᵀ W x₂ + b` for every output, with the initial distribution of `torch.nn.Bilinear`.

    `params` holds `weight` `(out_features, in1_features, in2_features)`, which has PyTorch's axes, and, unless
    `bias=False`, `bias` `(out_features,)`.

    >>> MetaBilinear(3, 2, 4, rngs=nnx.Rngs(0)).weight.shape
    (4, 3, 2)

    Args:
        in1_features: size of the last axis of the first input.
        in2_features: size of the last axis of the second input.
        out_features: size of the last axis of the output.
        bias: whether to add a bias.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: for `in1_features` below 1; in the call, for inputs of other features or with different leading
            axes.
    """

    neutral_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    def __init__(
        self, in1_features: int, in2_features: int, out_features: int, bias: bool = True, *, rngs: nnx.Rngs
    ) -> None:
        check_count(in1_features, "in1_features")
        check_count(in2_features, "in2_features", least=0)
        check_count(out_features, "out_features", least=0)
        self.weight = uniform_parameter(rngs, (out_features, in1_features, in2_features), in1_features)
        if bias:
            self.bias = uniform_parameter(rngs, (out_features,), in1_features)

    def __call__(self, input1: jax.Array, input2: jax.Array) -> jax.Array:
        """Map `(..., in1_features)` and `(..., in2_features)` to `(..., out_features)`."""
        own = own_parameters(self)
        _check_features("input1", input1, own["weight"].shape[1])
        _check_features("input2", input2, own["weight"].shape[2])
        if input1.shape[:-1] != input2.shape[:-1]:
            raise ValueError(
                f"`input1` and `input2` must agree in all axes but the last, got {input1.shape} and {input2.shape}."
            )
        output = jnp.einsum("...i,oij,...j->...o", input1, own["weight"], input2)
        return output + own["bias"] if "bias" in own else output


def _check_features(name: str, input: jax.Array, features: int) -> None:
    if input.ndim < 1 or input.shape[-1] != features:
        raise ValueError(f"`{name}` must be (..., {features} features), got shape {input.shape}.")
