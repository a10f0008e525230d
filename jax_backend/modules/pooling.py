"""Max-pooling that routes ties as PyTorch does (contract C8)."""

import functools

import jax
import jax.numpy as jnp

__all__ = ["MaxPool2d"]


class MaxPool2d:
    """Largest value of every non-overlapping `kernel_size` × `kernel_size` window of `(batch, H, W, channels)`.

    Rows and columns that fill no window are dropped. Among equal values the first in row-major order receives
    the whole gradient, at first and at second order, as in `torch.nn.functional.max_pool2d`; `jnp.max` would
    share it. Ties are common: binary images have large constant areas.

    Args:
        kernel_size: height and width of the window, and the distance between windows.

    Raises:
        ValueError: for a size below 1; in the call, for an image smaller than the window.
    """

    def __init__(self, kernel_size: int) -> None:
        if kernel_size < 1:
            raise ValueError(f"`kernel_size` must be a positive integer, got {kernel_size}.")
        self.kernel_size = kernel_size

    def __call__(self, input: jax.Array) -> jax.Array:
        """Map `(batch, H, W, channels)` to `(batch, H // k, W // k, channels)`."""
        k = self.kernel_size
        if min(input.shape[1:3]) < k:
            raise ValueError(f"`input` must have at least {k}×{k} pixels, got {input.shape[1]}×{input.shape[2]}.")
        height, width = input.shape[1] // k * k, input.shape[2] // k * k
        offsets = [(i, j) for i in range(k) for j in range(k)]
        return functools.reduce(_larger, (input[:, i:height:k, j:width:k] for i, j in offsets))


def _larger(first: jax.Array, second: jax.Array) -> jax.Array:
    """Elementwise maximum; of equals the first, and NaN wins."""
    return jnp.where((second > first) | jnp.isnan(second), second, first)
