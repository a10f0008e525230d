"""Batch normalisation as a MetaModule."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jax_backend.modules.module import MetaModule, own_parameters

__all__ = ["MetaBatchNorm2d"]


class MetaBatchNorm2d(MetaModule):
    """Batch normalisation of `(batch, H, W, num_features)` as `torch.nn.BatchNorm2d` does it (Ioffe & Szegedy 2015).

    `params` holds `weight` and `bias`, both `(num_features,)`, if the layer has them. Normalisation is by the biased
    variance; the running variance takes the unbiased one, and `momentum` is the weight of the new value: torch's
    conventions, which differ from Flax's. `model.eval()` and `model.train()` switch the running statistics on and off.

    With `params`, in training mode, the running statistics are left alone: adapting to a task must not change
    the meta-model. For statistics of the current batch at all times pass `track_running_stats=False`.

    Args:
        num_features: channels of the input.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics; `None` for their plain average.
        affine: whether to scale and shift.
        track_running_stats: whether to keep running statistics for evaluation.
        bias: whether to shift, if `affine`.

    Raises:
        ValueError: in the call, for an input of another number of features or with one value per feature, or if
            `params` has a missing, unknown or mis-shaped entry.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
    ) -> None:
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.use_running_average = False
        if affine:
            self.weight = nnx.Param(jnp.ones(num_features))
            if bias:
                self.bias = nnx.Param(jnp.zeros(num_features))
        self.track_running_stats = track_running_stats
        if track_running_stats:
            self.running_mean = nnx.BatchStat(jnp.zeros(num_features))
            self.running_var = nnx.BatchStat(jnp.ones(num_features))
            self.num_batches_tracked = nnx.BatchStat(jnp.zeros((), jnp.int32))

    def __call__(self, input: jax.Array, params: Mapping[str, jax.Array] | None = None) -> jax.Array:
        """Normalise `(batch, H, W, num_features)` per feature."""
        self._check_input(input)
        own = own_parameters(self, params)
        if self.track_running_stats and self.use_running_average:
            mean, variance = self.running_mean[...], self.running_var[...]
        else:
            count = input.size // self.num_features
            if count == 1:
                raise ValueError(
                    f"`input` must hold more than one value per channel in training mode, got shape {input.shape}; "
                    "use a larger batch, or model.eval()."
                )
            mean = input.mean((0, 1, 2))
            variance = ((input - mean) ** 2).mean((0, 1, 2))
            if self.track_running_stats and params is None:
                self._update(mean, variance, count)
        normalised = (input - mean) * jax.lax.rsqrt(variance + self.eps)
        scaled = normalised * own["weight"] if "weight" in own else normalised
        return scaled + own["bias"] if "bias" in own else scaled

    def _check_input(self, input: jax.Array) -> None:
        if input.ndim != 4 or input.shape[-1] != self.num_features:
            raise ValueError(f"`input` must be (batch, H, W, {self.num_features} channels), got shape {input.shape}.")

    def _update(self, mean: jax.Array, variance: jax.Array, count: int) -> None:
        self.num_batches_tracked[...] = self.num_batches_tracked[...] + 1
        number = self.num_batches_tracked[...].astype(mean.dtype)
        weight = 1.0 / number if self.momentum is None else self.momentum
        unbiased = variance * (count / (count - 1))
        self.running_mean[...] = (1 - weight) * self.running_mean[...] + weight * mean
        self.running_var[...] = (1 - weight) * self.running_var[...] + weight * unbiased
