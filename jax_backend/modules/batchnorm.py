"""Batch normalisation as MetaModules."""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jax_backend.modules.module import MetaModule, own_parameters
from jax_backend.modules.placement import moves_statistics
from metabridge.checks import check_count, check_number

__all__ = ["MetaBatchNorm1d", "MetaBatchNorm2d", "MetaBatchNorm3d"]


class _NormBase(MetaModule):
    """Parameters and running statistics of batch and instance normalisation."""

    neutral_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    layouts: ClassVar[tuple[str, ...]]
    """Axes of the inputs that are accepted, without the channels at the end."""

    def __init__(
        self,
        num_features: int,
        eps: float,
        momentum: float | None,
        affine: bool,
        track_running_stats: bool,
        bias: bool,
    ) -> None:
        check_count(num_features, "num_features")
        check_number(eps, "eps", least=0)
        if momentum is not None:
            check_number(momentum, "momentum")
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

    def _check_input(self, input: jax.Array) -> None:
        dims = [layout.count(",") + 2 for layout in self.layouts]
        if input.ndim not in dims or input.shape[-1] != self.num_features:
            wanted = " or ".join(f"({layout}, {self.num_features} channels)" for layout in self.layouts)
            raise ValueError(f"`input` must be {wanted}, got shape {input.shape}.")

    def _normalises_by_running_statistics(self) -> bool:
        return self.track_running_stats and self.use_running_average

    def _updates_running_statistics(self) -> bool:
        return self.track_running_stats and moves_statistics()

    def _move_running_statistics(self, mean: jax.Array, unbiased: jax.Array, weight: jax.Array | float) -> None:
        """`weight` is that of the new values. No gradient flows through running statistics, as in torch."""
        dtype = self.running_mean[...].dtype
        mean, unbiased = (each.astype(dtype) for each in jax.lax.stop_gradient((mean, unbiased)))
        self.running_mean[...] = (1 - weight) * self.running_mean[...] + weight * mean
        self.running_var[...] = (1 - weight) * self.running_var[...] + weight * unbiased


class _BatchNorm(_NormBase):
    """What batch normalisations of any number of spatial axes share, which is everything but that number."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        del rngs
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias)

    def __call__(self, input: jax.Array) -> jax.Array:
        """Normalise `(batch, *spatial, num_features)` per feature."""
        self._check_input(input)
        own = own_parameters(self)
        if self._normalises_by_running_statistics():
            mean, variance = self.running_mean[...], self.running_var[...]
        else:
            count = input.size // self.num_features
            if count == 1:
                raise ValueError(
                    f"`input` must hold more than one value per channel in training mode, got shape {input.shape}; "
                    "use a larger batch, or model.eval()."
                )
            mean, variance = _moments(input, tuple(range(input.ndim - 1)))
            if self._updates_running_statistics():
                self._update(mean.reshape(-1), variance.reshape(-1), count)
        return _scaled(_standardised(input, mean, variance, self.eps), own)

    def _update(self, mean: jax.Array, variance: jax.Array, count: int) -> None:
        self.num_batches_tracked[...] = self.num_batches_tracked[...] + 1
        number = self.num_batches_tracked[...].astype(self.running_mean[...].dtype)
        weight = 1.0 / number if self.momentum is None else self.momentum
        self._move_running_statistics(mean, variance * (count / (count - 1)), weight)


class MetaBatchNorm1d(_BatchNorm):
    """Batch normalisation of `(batch, num_features)` or `(batch, L, num_features)`, as `torch.nn.BatchNorm1d` does it.

    `params` holds `weight` and `bias`, both `(num_features,)`, if the layer has them. Statistics, arguments and
    errors are those of `MetaBatchNorm2d`.

    >>> MetaBatchNorm1d(8, rngs=nnx.Rngs(0)).weight.shape
    (8,)
    """

    layouts = ("batch", "batch, L")


class MetaBatchNorm2d(_BatchNorm):
    """Batch normalisation of `(batch, H, W, num_features)` as `torch.nn.BatchNorm2d` does it (Ioffe & Szegedy 2015).

    `params` holds `weight` and `bias`, both `(num_features,)`, if the layer has them. Normalisation is by the biased
    variance; the running variance takes the unbiased one, and `momentum` is the weight of the new value: torch's
    conventions, which differ from Flax's. `model.eval()` and `model.train()` switch the running statistics on and off.

    With `params`, in training mode, the running statistics are left alone: adapting to a task must not change
    the meta-model. To follow them as values use `call_with_buffers`; for statistics of the current batch at all times
    pass `track_running_stats=False`.

    >>> MetaBatchNorm2d(8, rngs=nnx.Rngs(0)).weight.shape
    (8,)

    Args:
        num_features: channels of the input.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics; `None` for their plain average.
        affine: whether to scale and shift.
        track_running_stats: whether to keep running statistics for evaluation.
        bias: whether to shift, if `affine`.
        rngs: taken as by every layer; nothing is drawn from it.

    Raises:
        ValueError: in the call, for an input of another number of features or with one value per feature.
    """

    layouts = ("batch, H, W",)


class MetaBatchNorm3d(_BatchNorm):
    """Batch normalisation of `(batch, D, H, W, num_features)` as `torch.nn.BatchNorm3d` does it.

    `params` holds `weight` and `bias`, both `(num_features,)`, if the layer has them. Statistics, arguments and
    errors are those of `MetaBatchNorm2d`.

    >>> MetaBatchNorm3d(8, rngs=nnx.Rngs(0)).weight.shape
    (8,)
    """

    layouts = ("batch, D, H, W",)


def _widened(input: jax.Array) -> jax.Array:
    """At least float32: squares of half-precision numbers overflow, and their sums lose digits, as torch knows."""
    return input.astype(jnp.float32) if jnp.finfo(input.dtype).bits < 32 else input


def _moments(input: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance over these axes, which are kept with size 1."""
    wide = _widened(input)
    mean = wide.mean(axes, keepdims=True)
    return mean, ((wide - mean) ** 2).mean(axes, keepdims=True)


def _standardised(input: jax.Array, mean: jax.Array, variance: jax.Array, eps: float) -> jax.Array:
    wide = _widened(input)
    scale = jax.lax.rsqrt(variance.astype(wide.dtype) + eps)
    return ((wide - mean.astype(wide.dtype)) * scale).astype(input.dtype)


def _scaled(normalised: jax.Array, own: Mapping[str, jax.Array]) -> jax.Array:
    """Times `weight` and plus `bias`, as far as the layer has them."""
    scaled = normalised * own["weight"] if "weight" in own else normalised
    return scaled + own["bias"] if "bias" in own else scaled
