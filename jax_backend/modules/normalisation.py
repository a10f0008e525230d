"""Layer, group, instance and root-mean-square normalisation as MetaModules."""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jax_backend.modules.batchnorm import _moments, _NormBase, _scaled, _standardised, _widened
from jax_backend.modules.module import MetaModule, own_parameters
from metabridge.checks import check_count, is_count, require

__all__ = [
    "MetaGroupNorm",
    "MetaInstanceNorm1d",
    "MetaInstanceNorm2d",
    "MetaInstanceNorm3d",
    "MetaLayerNorm",
    "MetaRMSNorm",
]


class _TrailingNorm(MetaModule):
    """The axes that layer and root-mean-square normalisation normalise over."""

    def __init__(self, normalized_shape: int | Sequence[int], channels_last: bool | None) -> None:
        self.normalized_shape = _shape(normalized_shape)
        self.channels_last = channels_last

    @property
    def neutral_axes(self) -> Mapping[str, tuple[int, ...]] | None:
        """The axes of the parameters in PyTorch; `None` if it was not said what they are."""
        count = len(self.normalized_shape)
        if count > 1 and self.channels_last is None:
            return None
        axes = (count - 1, *range(count - 1)) if self.channels_last else tuple(range(count))
        return {"weight": axes, "bias": axes}


class MetaLayerNorm(_TrailingNorm):
    """Normalisation over the trailing axes of `(..., *normalized_shape)`, as `torch.nn.LayerNorm` (Ba et al. 2016).

    `params` holds `weight` and `bias`, both of `normalized_shape`, if the layer has them. The trailing axes are
    those of the JAX array: the channels of an image are the last of them.

    >>> MetaLayerNorm(8, rngs=nnx.Rngs(0)).weight.shape
    (8,)

    Args:
        normalized_shape: sizes of the trailing axes to normalise over; one number for the last axis.
        eps: added to the variance.
        elementwise_affine: whether to scale and shift.
        bias: whether to shift, if `elementwise_affine`.
        channels_last: for the neutral form of several axes. `True`: the last one is the channels, which PyTorch has
            first, as in `(H, W, C)` for its `(C, H, W)`. `False`: PyTorch has them in this order. With `None` the
            parameters have no neutral form, because the shape does not tell.
        rngs: taken as by every layer; nothing is drawn from it.

    Raises:
        ValueError: for an empty shape; in the call, for an input that does not end in `normalized_shape`.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        channels_last: bool | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        del rngs
        super().__init__(normalized_shape, channels_last)
        self.eps = eps
        if elementwise_affine:
            self.weight = nnx.Param(jnp.ones(self.normalized_shape))
            if bias:
                self.bias = nnx.Param(jnp.zeros(self.normalized_shape))

    def __call__(self, input: jax.Array) -> jax.Array:
        """Normalise `(..., *normalized_shape)` over its trailing axes."""
        own = own_parameters(self)
        mean, variance = _moments(input, _trailing_axes(input, self.normalized_shape))
        return _scaled(_standardised(input, mean, variance, self.eps), own)


class MetaRMSNorm(_TrailingNorm):
    """Division of `(..., *normalized_shape)` by its root mean square, as `torch.nn.RMSNorm` (Zhang & Sennrich 2019).

    `params` holds `weight` of `normalized_shape`, if the layer has it.

    >>> MetaRMSNorm(8, rngs=nnx.Rngs(0)).weight.shape
    (8,)

    Args:
        normalized_shape: sizes of the trailing axes to normalise over; one number for the last axis.
        eps: added to the mean square; `None` for the machine epsilon of the input's dtype, of float32 for a
            shorter one.
        elementwise_affine: whether to scale.
        channels_last: as in `MetaLayerNorm`.
        rngs: taken as by every layer; nothing is drawn from it.

    Raises:
        ValueError: for an empty shape; in the call, for an input that does not end in `normalized_shape`.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        channels_last: bool | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        del rngs
        super().__init__(normalized_shape, channels_last)
        self.eps = eps
        if elementwise_affine:
            self.weight = nnx.Param(jnp.ones(self.normalized_shape))

    def __call__(self, input: jax.Array) -> jax.Array:
        """Normalise `(..., *normalized_shape)` over its trailing axes."""
        own = own_parameters(self)
        wide = _widened(input)
        eps = float(jnp.finfo(wide.dtype).eps) if self.eps is None else self.eps
        square = (wide**2).mean(_trailing_axes(input, self.normalized_shape), keepdims=True)
        return _scaled((wide * jax.lax.rsqrt(square + eps)).astype(input.dtype), own)


class MetaGroupNorm(MetaModule):
    """Normalisation of `(batch, *spatial, num_channels)` per example and group of neighbouring channels.

    It is `torch.nn.GroupNorm` (Wu & He 2018). `params` holds `weight` and `bias`, both `(num_channels,)`, if the
    layer has them.

    >>> MetaGroupNorm(2, 8, rngs=nnx.Rngs(0)).weight.shape
    (8,)

    Args:
        num_groups: number of groups.
        num_channels: channels of the input.
        eps: added to the variance.
        affine: whether to scale and shift.
        bias: whether to shift, if `affine`.
        rngs: taken as by every layer; nothing is drawn from it.

    Raises:
        ValueError: if `num_groups` does not divide `num_channels`; in the call, for an input of other channels or
            with one value in all.
    """

    neutral_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        bias: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        del rngs
        check_count(num_groups, "num_groups")
        check_count(num_channels, "num_channels")
        if num_channels % num_groups:
            raise ValueError(f"`num_groups` must divide `num_channels`, got {num_groups} and {num_channels}.")
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        if affine:
            self.weight = nnx.Param(jnp.ones(num_channels))
            if bias:
                self.bias = nnx.Param(jnp.zeros(num_channels))

    def __call__(self, input: jax.Array) -> jax.Array:
        """Normalise `(batch, *spatial, num_channels)` per example and group."""
        own = own_parameters(self)
        if input.ndim < 2 or input.shape[-1] != self.num_channels:
            raise ValueError(
                f"`input` must be (batch, *spatial, {self.num_channels} channels), got shape {input.shape}; "
                "images are channels-last in JAX."
            )
        if input.size == self.num_groups:
            raise ValueError(
                f"`input` must hold more than one value per group, got shape {input.shape}; use fewer groups."
            )
        positions = math.prod(input.shape[1:-1])
        grouped = input.reshape(len(input), positions, self.num_groups, self.num_channels // self.num_groups)
        normalised = _standardised(grouped, *_moments(grouped, (1, 3)), self.eps)
        return _scaled(normalised.reshape(input.shape), own)


class _InstanceNorm(_NormBase):
    """What instance normalisations of any number of spatial axes share, which is everything but that number."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        bias: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> None:
        del rngs
        super().__init__(num_features, eps, momentum, affine, track_running_stats, bias)

    def __call__(self, input: jax.Array) -> jax.Array:
        """Normalise `(batch, *spatial, num_features)`, or one example without the first axis, per feature."""
        self._check_input(input)
        own = own_parameters(self)
        if self._normalises_by_running_statistics():
            mean, variance = self.running_mean[...], self.running_var[...]
        else:
            axes = tuple(range(input.ndim - self.layouts[0].count(",") - 2, input.ndim - 1))
            count = math.prod(input.shape[axis] for axis in axes)
            if count == 1:
                raise ValueError(
                    f"`input` must hold more than one value per example and channel, got shape {input.shape}; "
                    "use larger images, or running statistics and model.eval()."
                )
            mean, variance = _moments(input, axes)
            if self._updates_running_statistics():
                self._update(mean, variance * (count / (count - 1)))
        return _scaled(_standardised(input, mean, variance, self.eps), own)

    def _update(self, mean: jax.Array, unbiased: jax.Array) -> None:
        """Take the examples' statistics, averaged. Like torch, count no batches, and read no momentum as 0."""
        means, variances = mean.reshape(-1, self.num_features), unbiased.reshape(-1, self.num_features)
        self._move_running_statistics(means.mean(0), variances.mean(0), self.momentum or 0.0)


class MetaInstanceNorm1d(_InstanceNorm):
    """Normalisation of `(batch, L, num_features)` or `(L, num_features)` per example and feature.

    It is `torch.nn.InstanceNorm1d`. `params` holds `weight` and `bias`, both `(num_features,)`, if the layer has
    them. Statistics, arguments and errors are those of `MetaInstanceNorm2d`.

    >>> MetaInstanceNorm1d(8, affine=True, rngs=nnx.Rngs(0)).weight.shape
    (8,)
    """

    layouts = ("L", "batch, L")


class MetaInstanceNorm2d(_InstanceNorm):
    """Normalisation of `(batch, H, W, num_features)` or `(H, W, num_features)` per example and feature.

    It is `torch.nn.InstanceNorm2d` (Ulyanov et al. 2016). `params` holds `weight` and `bias`, both
    `(num_features,)`, if the layer has them. With `track_running_stats` the running statistics are averages over
    the examples, with the unbiased variance, and `model.eval()` and `model.train()` switch them on and off. With
    `params`, in training mode, they are left alone.

    >>> MetaInstanceNorm2d(8, affine=True, rngs=nnx.Rngs(0)).weight.shape
    (8,)

    Args:
        num_features: channels of the input.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics; `None` leaves them as they are, as torch does.
        affine: whether to scale and shift.
        track_running_stats: whether to keep running statistics for evaluation.
        bias: whether to shift, if `affine`.
        rngs: taken as by every layer; nothing is drawn from it.

    Raises:
        ValueError: in the call, for an input of another number of features or with one value per example and
            feature.
    """

    layouts = ("H, W", "batch, H, W")


class MetaInstanceNorm3d(_InstanceNorm):
    """Normalisation of `(batch, D, H, W, num_features)` or `(D, H, W, num_features)` per example and feature.

    It is `torch.nn.InstanceNorm3d`. `params` holds `weight` and `bias`, both `(num_features,)`, if the layer has
    them. Statistics, arguments and errors are those of `MetaInstanceNorm2d`.

    >>> MetaInstanceNorm3d(8, affine=True, rngs=nnx.Rngs(0)).weight.shape
    (8,)
    """

    layouts = ("D, H, W", "batch, D, H, W")


def _shape(shape: int | Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(shape) if isinstance(shape, Sequence) else (shape,)
    if not sizes:
        raise ValueError("`normalized_shape` must have at least one axis, got ().")
    require(all(is_count(size) for size in sizes), "normalized_shape", "one or more positive integers", shape)
    return sizes


def _trailing_axes(input: jax.Array, shape: tuple[int, ...]) -> tuple[int, ...]:
    if input.shape[-len(shape) :] != shape:
        raise ValueError(f"`input` must be (..., {', '.join(map(str, shape))}), got shape {input.shape}.")
    return tuple(range(input.ndim - len(shape), input.ndim))
