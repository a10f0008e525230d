"""Convolution as a MetaModule, written as shifted slices and one matrix product."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from jax_backend.modules.module import MetaModule, own_parameters, uniform_parameter

__all__ = ["MetaConv2d", "conv2d"]

_PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class MetaConv2d(MetaModule):
    """2-D convolution of `(batch, H, W, channels)` with the options and initial distribution of `torch.nn.Conv2d`.

    `params` holds `weight` `(kH, kW, in_channels / groups, out_channels)` and, unless `bias=False`, `bias`
    `(out_channels,)`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: height and width of the kernel, or one number for both.
        stride: step between output positions, likewise.
        padding: rows and columns added on each side, likewise; or `"valid"` (none) or `"same"`.
        dilation: distance between kernel elements, likewise.
        groups: number of blocks of channels that do not mix.
        bias: whether to add a bias.
        padding_mode: `"zeros"`, `"reflect"`, `"replicate"` or `"circular"`.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: for channels that `groups` does not divide or an unknown padding; in the call, for an input of
            other channels or smaller than the kernel, or if `params` has a missing, unknown or mis-shaped entry.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        rngs: nnx.Rngs,
    ) -> None:
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"`groups` must divide both channels, got {groups} for {in_channels} and {out_channels}.")
        if padding_mode not in _PADDING_MODES:
            raise ValueError(f"`padding_mode` must be one of {', '.join(_PADDING_MODES)}, got {padding_mode!r}.")
        kernel = _pair(kernel_size)
        self.stride, self.dilation, self.groups, self.padding_mode = (
            _pair(stride),
            _pair(dilation),
            groups,
            padding_mode,
        )
        self.padding = _sides(padding, kernel, self.dilation, self.stride)
        fan_in = kernel[0] * kernel[1] * in_channels // groups
        self.weight = uniform_parameter(rngs, (*kernel, in_channels // groups, out_channels), fan_in)
        if bias:
            self.bias = uniform_parameter(rngs, (out_channels,), fan_in)

    def __call__(self, input: jax.Array, params: Mapping[str, jax.Array] | None = None) -> jax.Array:
        """Map `(batch, H, W, in_channels)` to `(batch, H', W', out_channels)`."""
        own = own_parameters(self, params)
        padded = jnp.pad(input, ((0, 0), *self.padding, (0, 0)), mode=_PADDING_MODES[self.padding_mode])
        output = conv2d(padded, own["weight"], self.stride, self.dilation, self.groups)
        return output + own["bias"] if "bias" in own else output


def conv2d(
    inputs: jax.Array,
    weight: jax.Array,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> jax.Array:
    """Convolve `(batch, H, W, C)` with `(kH, kW, C / groups, O)`, without padding.

    One shifted slice of the input per kernel element, side by side, times the kernel as a matrix. Under `vmap`
    over tasks this becomes a batched matrix product, where `jax.lax.conv_general_dilated` becomes a grouped
    convolution: one and a half times slower on an H100, and hopeless in XLA on a CPU.
    """
    kernel_height, kernel_width, depth, outputs = weight.shape
    if inputs.ndim != 4 or inputs.shape[-1] != depth * groups:
        raise ValueError(
            f"`input` must be (batch, H, W, {depth * groups} channels), got shape {inputs.shape}; "
            "images are channels-last in JAX."
        )
    height = (inputs.shape[1] - dilation[0] * (kernel_height - 1) - 1) // stride[0] + 1
    width = (inputs.shape[2] - dilation[1] * (kernel_width - 1) - 1) // stride[1] + 1
    if min(height, width) < 1:
        raise ValueError(
            f"`input` must be at least as large as the kernel, got {inputs.shape[1]}×{inputs.shape[2]} after padding; "
            "pad it or use a smaller kernel."
        )
    patches = [
        inputs[
            :,
            i * dilation[0] : i * dilation[0] + (height - 1) * stride[0] + 1 : stride[0],
            j * dilation[1] : j * dilation[1] + (width - 1) * stride[1] + 1 : stride[1],
        ]
        for i in range(kernel_height)
        for j in range(kernel_width)
    ]
    if groups == 1:  # flattened to two axes: a quarter faster on a CPU than a product over four
        rows = jnp.concatenate(patches, axis=-1).reshape(-1, len(patches) * depth)
        return (rows @ weight.reshape(-1, outputs)).reshape(-1, height, width, outputs)
    stacked = jnp.stack(patches, axis=3).reshape(-1, height, width, len(patches), groups, depth)
    kernel = weight.reshape(len(patches), depth, groups, outputs // groups)
    return jnp.einsum("bhwkgc,kcgo->bhwgo", stacked, kernel).reshape(-1, height, width, outputs)


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _sides(
    padding: int | tuple[int, int] | str,
    kernel: tuple[int, int],
    dilation: tuple[int, int],
    stride: tuple[int, int],
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns added (before, after); an odd total for `"same"` adds the extra one after, as torch does."""
    if padding == "same":
        if stride != (1, 1):
            raise ValueError(f"`padding='same'` needs a stride of 1, got {stride}; give the padding as numbers.")
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return (totals[0] // 2, totals[0] - totals[0] // 2), (totals[1] // 2, totals[1] - totals[1] // 2)
    if isinstance(padding, str) and padding != "valid":
        raise ValueError(f"`padding` must be numbers, 'valid' or 'same', got {padding!r}.")
    rows, columns = (0, 0) if isinstance(padding, str) else _pair(padding)
    return (rows, rows), (columns, columns)
