"""Embeddings as MetaModules."""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_backend.modules.module import MetaModule, own_parameters
from metabridge.checks import check_count, check_instance, check_integer

__all__ = ["MetaEmbedding", "MetaEmbeddingBag"]

_MODES = ("sum", "mean", "max")


class _Embedding(MetaModule):
    """The table of an embedding and the look-up in it."""

    neutral_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None, rngs: nnx.Rngs) -> None:
        check_count(num_embeddings, "num_embeddings")
        check_count(embedding_dim, "embedding_dim", least=0)
        check_instance(rngs, nnx.Rngs, "rngs", "pass for example nnx.Rngs(0)")
        self.num_embeddings = num_embeddings
        weight = jax.random.normal(rngs.params(), (num_embeddings, embedding_dim))
        if padding_idx is not None:
            check_integer(padding_idx, "padding_idx")
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(f"`padding_idx` must be an index of {num_embeddings} rows, got {padding_idx}.")
            padding_idx %= num_embeddings
            weight = weight.at[padding_idx].set(0.0)
        self.padding_idx = padding_idx
        self.weight = nnx.Param(weight)

    def _index(self, input: jax.Array) -> jax.Array:
        """Indices with every impossible one beyond the table; an error where that can be seen."""
        if not jnp.issubdtype(input.dtype, jnp.integer):
            raise ValueError(f"`input` must hold integers, got {input.dtype}.")
        if not isinstance(input, jax.core.Tracer) and input.size:
            values = np.asarray(input)
            if values.min() < 0 or values.max() >= self.num_embeddings:
                raise ValueError(
                    f"`input` must hold indices in [0, {self.num_embeddings}), got {values.min()} to {values.max()}; "
                    "use a larger table, or check the indices."
                )
        index = _wide(input)
        return jnp.where(index < 0, self.num_embeddings, index)

    def _rows(self, weight: jax.Array, index: jax.Array) -> jax.Array:
        rows = jnp.asarray(weight).at[index].get(mode="fill", fill_value=jnp.nan)
        if self.padding_idx is None:
            return rows
        return jnp.where((index == self.padding_idx)[..., None], jax.lax.stop_gradient(rows), rows)


class MetaEmbedding(_Embedding):
    """Rows of a table, as `torch.nn.Embedding` looks them up; at first drawn from a standard normal distribution.

    `params` holds `weight` `(num_embeddings, embedding_dim)`. An index out of range is an error; inside `jit`,
    `vmap` and the like, where no value can be seen, its row is NaN.

    >>> MetaEmbedding(10, 8, rngs=nnx.Rngs(0)).weight.shape
    (10, 8)

    Args:
        num_embeddings: rows of the table.
        embedding_dim: size of a row.
        padding_idx: a row that starts at zero and gets no gradient; negative ones count from the end.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: for a `padding_idx` out of range; in the call, for indices out of range or that are no integers,
           .
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *, rngs: nnx.Rngs
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        """Map indices `(...)` to `(..., embedding_dim)`."""
        return self._rows(own_parameters(self)["weight"], self._index(input))


class MetaEmbeddingBag(_Embedding):
    """Sums, means or maxima of the rows of each bag of indices, as `torch.nn.EmbeddingBag` takes them.

    `params` holds `weight` `(num_embeddings, embedding_dim)`. A bag is a row of a 2-D input, or the part of a 1-D
    input from one of the `offsets` to the next. An empty bag gives 0. Among equal values the first in the bag
    receives the gradient of the maximum. Indices out of range and impossible offsets are errors; inside `jit`,
    `vmap` and the like, where no value can be seen, they give NaN. So does NaN in a bag.

    >>> MetaEmbeddingBag(10, 8, mode="sum", rngs=nnx.Rngs(0)).weight.shape
    (10, 8)

    Args:
        num_embeddings: rows of the table.
        embedding_dim: size of a row.
        mode: `"sum"`, `"mean"` or `"max"`.
        include_last_offset: whether `offsets` ends with the length of the input, as in the CSR format.
        padding_idx: a row that starts at zero, gets no gradient and does not count in a bag; negative ones count from
            the end.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: for an unknown mode or a `padding_idx` out of range; in the call, for indices out of range or
            that are no integers, missing, needless or impossible offsets, weights of another shape or mode,
           .
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        mode: str = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        if mode not in _MODES:
            raise ValueError(f"`mode` must be one of {', '.join(_MODES)}, got {mode!r}.")
        super().__init__(num_embeddings, embedding_dim, padding_idx, rngs)
        self.mode = mode
        self.include_last_offset = include_last_offset

    def __call__(
        self,
        input: jax.Array,
        offsets: jax.Array | None = None,
        per_sample_weights: jax.Array | None = None,
    ) -> jax.Array:
        """Map indices `(bags, length)`, or `(total,)` with `offsets` `(bags,)`, to `(bags, embedding_dim)`.

        `per_sample_weights`, of the shape of `input`, multiply the rows before they are summed.
        """
        weight = own_parameters(self)["weight"]
        self._check_sample_weights(input, per_sample_weights)
        bag, bags, possible = self._bags(input, offsets)
        index = self._index(input).reshape(-1)
        counted = jnp.ones(index.shape, bool) if self.padding_idx is None else index != self.padding_idx
        rows = jnp.where(counted[:, None], self._rows(weight, index), 0.0)
        if per_sample_weights is not None:
            rows = rows * per_sample_weights.reshape(-1, 1)
        counts = jax.ops.segment_sum(counted.astype(rows.dtype), bag, bags)[:, None]
        if self.mode == "max":
            output = jnp.where(counts > 0, _first_maximum(rows, counted, bag, bags), 0.0)
        else:
            total = jax.ops.segment_sum(rows, bag, bags)
            output = total / jnp.maximum(counts, 1.0) if self.mode == "mean" else total
        return jnp.where(possible, output, jnp.nan)

    def _check_sample_weights(self, input: jax.Array, weights: jax.Array | None) -> None:
        if weights is None:
            return
        if self.mode != "sum":
            raise ValueError(f"`per_sample_weights` can only be given if `mode` is 'sum', got {self.mode!r}.")
        if weights.shape != input.shape:
            raise ValueError(f"`per_sample_weights` must have the input's shape {input.shape}, got {weights.shape}.")

    def _bags(self, input: jax.Array, offsets: jax.Array | None) -> tuple[jax.Array, int, jax.Array | bool]:
        """The bag of every index, the number of bags, and whether the offsets are possible."""
        if input.ndim == 2:
            if offsets is not None:
                raise ValueError("`offsets` must be None for a 2-D input, whose rows are the bags.")
            return jnp.repeat(jnp.arange(len(input)), input.shape[1]), len(input), True
        if input.ndim != 1 or offsets is None or offsets.ndim != 1 or len(offsets) <= self.include_last_offset:
            raise ValueError(
                f"`input` must be (bags, length), or (total,) with `offsets` (bags,), got shape {input.shape} and "
                f"offsets of shape {None if offsets is None else offsets.shape}."
            )
        if not isinstance(offsets, jax.core.Tracer) and not self._possible(np.asarray(offsets), len(input)):
            end = f"end with the input's length {len(input)}" if self.include_last_offset else f"not pass {len(input)}"
            raise ValueError(f"`offsets` must start with 0, never decrease and {end}, got {np.asarray(offsets)}.")
        edges = _wide(offsets)
        starts = edges[:-1] if self.include_last_offset else edges
        bag = jnp.searchsorted(starts, jnp.arange(len(input), dtype=starts.dtype), side="right") - 1
        return bag, len(starts), self._possible(edges, len(input))

    def _possible(self, offsets: jax.Array | np.ndarray, length: int) -> jax.Array:
        # torch, where the last offset is included, reads on to the end of the input whatever it says.
        end = offsets[-1] == length if self.include_last_offset else offsets[-1] <= length
        return (offsets[0] == 0) & (offsets[1:] >= offsets[:-1]).all() & end


def _wide(indices: jax.Array) -> jax.Array:
    """As integers of at least 32 bits, which can hold the size of a table."""
    return jnp.asarray(indices, indices.dtype if indices.dtype.itemsize >= 4 else jnp.int32)


def _first_maximum(rows: jax.Array, counted: jax.Array, bag: jax.Array, bags: int) -> jax.Array:
    """The largest counted value of each bag, taken from the first row that has it."""
    values = jnp.where(counted[:, None], jax.lax.stop_gradient(rows), -jnp.inf)
    largest = jax.ops.segment_max(values, bag, bags)
    holds = counted[:, None] & (values == largest[bag])
    position = jnp.where(holds, jnp.arange(len(rows))[:, None], len(rows))
    return jnp.take_along_axis(rows, jax.ops.segment_min(position, bag, bags), axis=0, mode="fill", fill_value=jnp.nan)
