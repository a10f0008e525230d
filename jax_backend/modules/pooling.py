"""Max-pooling that routes ties as PyTorch does (contract C8), and flattening in PyTorch's order (contract C6)."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jax_backend.modules.conv import _per_axis

__all__ = ["Flatten", "MaxPool2d"]


class MaxPool2d:
    """Largest value of every window of `(batch, H, W, channels)`.

    Rows and columns that fill no window are dropped. Among equal values the first in row-major order receives
    the whole gradient, at first and at second order, as in `torch.nn.functional.max_pool2d`; `jnp.max` would
    share it. Ties are common: binary images have large constant areas. Padding is never the largest.

    Args:
        kernel_size: height and width of the window, or one number for both.
        stride: distance between windows, likewise; `None` for windows side by side.
        padding: rows and columns added on each side, likewise; at most half of the window.

    Raises:
        ValueError: for a size below 1 or too much padding; in the call, for an image smaller than the window.
    """

    def __init__(
        self,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] | None = None,
        padding: int | tuple[int, ...] = 0,
    ) -> None:
        self.kernel_size = _per_axis("kernel_size", kernel_size, 2)
        self.stride = self.kernel_size if stride is None else _per_axis("stride", stride, 2)
        self.padding = _per_axis("padding", padding, 2, least=0)
        if any(2 * p > k for p, k in zip(self.padding, self.kernel_size, strict=True)):
            raise ValueError(f"`padding` must be at most half of `kernel_size` {self.kernel_size}, got {self.padding}.")

    def __eq__(self, other: object) -> bool:
        """Equal pools compute the same, so that Flax takes two models that hold them for one structure."""
        return isinstance(other, MaxPool2d) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.kernel_size, self.stride, self.padding))

    def __call__(self, input: jax.Array) -> jax.Array:
        """Map `(batch, H, W, channels)` to `(batch, H', W', channels)`, where `H' = (H + 2p - k) // stride + 1`."""
        if input.ndim != 4:
            raise ValueError(f"`input` must be (batch, H, W, channels), got shape {input.shape}.")
        sides = [(pixels, pixels) for pixels in self.padding]
        inside = np.pad(np.ones((*input.shape[1:3], 1), bool), (*sides, (0, 0)))
        padded = jnp.pad(input, ((0, 0), *sides, (0, 0))) if max(self.padding) else input
        axes = list(zip(inside.shape[:2], self.kernel_size, self.stride, strict=True))
        if any(n < k for n, k, _ in axes):
            height, width = self.kernel_size
            raise ValueError(
                f"`input` must have at least {height}×{width} pixels, got {inside.shape[0]}×{inside.shape[1]}"
                f"{' after padding' if max(self.padding) else ''}."
            )
        windows = itertools.product(*([slice(i, n - k + i + 1, s) for i in range(k)] for n, k, s in axes))
        return functools.reduce(_larger, ((padded[:, *window], inside[window]) for window in windows))[0]


Candidate = tuple[jax.Array, npt.NDArray[np.bool_]]
"""Values `(batch, H', W', channels)`, and which of them are of the image and not of its padding."""


def _larger(first: Candidate, second: Candidate) -> Candidate:
    """Elementwise maximum; of equals the first, NaN wins, and padding never does."""
    (value, known), (other, inside) = first, second
    wins = (other > value) | jnp.isnan(other)
    if not (known.all() and inside.all()):
        wins = (wins | ~known) & inside
    return jnp.where(wins, other, value), known | inside


class Flatten:
    """`(batch, *spatial, channels)` as `(batch, channels · spatial)`, in PyTorch's order: channels first.

    A linear layer after it has PyTorch's weight, up to transposition.

    Raises:
        ValueError: in the call, for an input without a batch axis.
    """

    def __eq__(self, other: object) -> bool:
        """All are alike."""
        return isinstance(other, Flatten)

    def __hash__(self) -> int:
        return hash(Flatten)

    def __call__(self, input: jax.Array) -> jax.Array:
        """Map `(batch, *spatial, channels)` to `(batch, channels · spatial)`."""
        if input.ndim < 2:
            raise ValueError(f"`input` must be (batch, *spatial, channels), got shape {input.shape}.")
        return jnp.moveaxis(input, -1, 1).reshape(len(input), math.prod(input.shape[1:]))
