"""The affine layer as a MetaModule."""

from collections.abc import Mapping

import jax
from flax import nnx

from jax_backend.modules.module import MetaModule, own_parameters, uniform_parameter

__all__ = ["MetaLinear"]


class MetaLinear(MetaModule):
    """`x W + b`, with the initial distribution of `torch.nn.Linear`.

    `params` holds `weight` `(in_features, out_features)` and, unless `bias=False`, `bias` `(out_features,)`.

    Args:
        in_features: size of the last axis of the input.
        out_features: size of the last axis of the output.
        bias: whether to add a bias.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: in the call, if `params` has a missing, unknown or mis-shaped entry.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, rngs: nnx.Rngs) -> None:
        self.weight = uniform_parameter(rngs, (in_features, out_features), in_features)
        if bias:
            self.bias = uniform_parameter(rngs, (out_features,), in_features)

    def __call__(self, input: jax.Array, params: Mapping[str, jax.Array] | None = None) -> jax.Array:
        """Map `(..., in_features)` to `(..., out_features)`."""
        own = own_parameters(self, params)
        output = input @ own["weight"]
        return output + own["bias"] if "bias" in own else output
