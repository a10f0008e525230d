"""Flax modules as users have them, `(batch, 4)` to `(batch, 3)`, with everything that makes adapting them hard."""

import jax
from flax import nnx

__all__ = ["MODULES", "batch_norm"]


def _rngs() -> nnx.Rngs:
    return nnx.Rngs(0)


def batch_norm(features: int) -> nnx.BatchNorm:
    """Flax's, with running statistics in the precision of the parameters; by itself it makes them float32."""
    layer = nnx.BatchNorm(features, rngs=_rngs(), param_dtype=float)
    for statistic in (layer.mean, layer.var):
        statistic.set_value(statistic.get_value().astype(float))
    return layer


class Tied(nnx.Module):
    """One layer is in two places; what is assigned last comes first among the sorted names of a copy."""

    def __init__(self) -> None:
        self.second = nnx.Linear(4, 4, rngs=_rngs(), param_dtype=float)
        self.layers = nnx.List([self.second, nnx.LayerNorm(4, rngs=_rngs(), param_dtype=float)])
        self.another = self.second
        self.head = nnx.Linear(4, 3, rngs=_rngs(), param_dtype=float)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        for layer in self.layers:
            inputs = layer(nnx.tanh(inputs))
        return self.head(self.another(inputs))


class Normalised(nnx.Module):
    """Batch normalisation in training mode."""

    def __init__(self) -> None:
        self.first = nnx.Linear(4, 4, rngs=_rngs(), param_dtype=float)
        self.norm = batch_norm(4)
        self.head = nnx.Linear(4, 3, rngs=_rngs(), param_dtype=float)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.head(nnx.tanh(self.norm(self.first(inputs))))


class Attending(nnx.Module):
    """Flax's attention over four positions."""

    def __init__(self) -> None:
        self.embed = nnx.Linear(1, 4, rngs=_rngs(), param_dtype=float)
        self.attend = nnx.MultiHeadAttention(2, 4, rngs=_rngs(), param_dtype=float, decode=False)
        self.head = nnx.Linear(4, 3, rngs=_rngs(), param_dtype=float)

    def __call__(self, inputs: jax.Array) -> jax.Array:
        return self.head(self.attend(self.embed(inputs[..., None])).mean(1))


MODULES = {"tied": Tied, "normalised": Normalised, "attending": Attending}
"""Name → class."""
