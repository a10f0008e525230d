"""Activations with a slope, with PyTorch's derivative at 0 (contract C8)."""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jax_backend.modules.module import MetaModule, own_parameters
from metabridge.checks import check_count, check_number

__all__ = ["MetaPReLU", "leaky_relu"]


class MetaPReLU(MetaModule):
    """`x` where it is positive and `weight · x` elsewhere, as `torch.nn.PReLU` does it (He et al. 2015).

    `params` holds `weight` `(num_parameters,)`. The derivative at 0 is the weight.

    >>> MetaPReLU(8, rngs=nnx.Rngs(0)).weight.shape
    (8,)

    Args:
        num_parameters: 1, or the channels, which are the last axis of the input, for a weight each.
        init: initial value of the weights.
        rngs: taken as by every layer; nothing is drawn from it.

    Raises:
        ValueError: in the call, for an input of other channels.
    """

    neutral_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, rngs: nnx.Rngs | None = None) -> None:
        del rngs
        check_count(num_parameters, "num_parameters")
        check_number(init, "init")
        self.num_parameters = num_parameters
        self.weight = nnx.Param(jnp.full(num_parameters, init, float))

    def __call__(self, input: jax.Array) -> jax.Array:
        """Map `(..., channels)` to the same shape."""
        own = own_parameters(self)
        if self.num_parameters > 1 and (input.ndim < 2 or input.shape[-1] != self.num_parameters):
            raise ValueError(
                f"`input` must be (batch, ..., {self.num_parameters} channels), got shape {input.shape}; "
                "images are channels-last in JAX."
            )
        weight = own["weight"] if self.num_parameters > 1 else own["weight"][0]
        return input * jnp.where(input > 0, 1.0, weight)


def leaky_relu(input: jax.Array, negative_slope: float = 0.01) -> jax.Array:
    """`x` where it is positive and `negative_slope · x` elsewhere.

    The derivative at 0 is `negative_slope`, as in `torch.nn.functional.leaky_relu`; that of `jax.nn.leaky_relu` is 1.
    """
    return jnp.where(input > 0, input, negative_slope * input)
