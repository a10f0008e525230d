"""Multi-head attention as a MetaModule."""

import math
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jax_backend.modules.linear import MetaLinear
from jax_backend.modules.module import MetaModule, own_parameters
from metabridge.checks import check_count

__all__ = ["MetaMultiheadAttention"]


class MetaMultiheadAttention(MetaModule):
    """Multi-head attention as `torch.nn.MultiheadAttention` does it, without dropout (Vaswani et al. 2017).

    `params` holds, in PyTorch's axes, `in_proj_weight` `(3 · embed_dim, embed_dim)` or, if `kdim` or `vdim` differ,
    `q_proj_weight`, `k_proj_weight` and `v_proj_weight`, each `(embed_dim, its inputs)`; `in_proj_bias`
    `(3 · embed_dim,)` unless `bias=False`; `bias_k` and `bias_v` `(1, 1, embed_dim)` if `add_bias_kv`; and those of
    the `MetaLinear` called `out_proj`: `out_proj.weight` `(in, out)`, `out_proj.bias`.

    >>> MetaMultiheadAttention(8, num_heads=2, rngs=nnx.Rngs(0)).in_proj_weight.shape
    (24, 8)

    Args:
        embed_dim: features of the queries and of the output.
        num_heads: number of heads; it divides `embed_dim`.
        bias: whether the projections add a bias.
        add_bias_kv: whether to attend to one more, learnt, key and value.
        add_zero_attn: whether to attend to one more key and value of zeros.
        kdim: features of the keys; `None` for `embed_dim`.
        vdim: features of the values; `None` for `embed_dim`.
        batch_first: whether batches come as `(batch, length, features)` and not as `(length, batch, features)`.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: if `num_heads` does not divide `embed_dim`; in the call, for inputs or masks of shapes that do not
            fit together, `is_causal` without `attn_mask`.
    """

    neutral_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        check_count(embed_dim, "embed_dim")
        check_count(num_heads, "num_heads")
        if embed_dim % num_heads:
            raise ValueError(f"`num_heads` must divide `embed_dim`, got {num_heads} and {embed_dim}.")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.add_zero_attn = add_zero_attn
        self.batch_first = batch_first
        if self.kdim == self.vdim == embed_dim:
            self.in_proj_weight = _xavier_uniform(rngs, 3 * embed_dim, embed_dim)
        else:
            self.q_proj_weight = _xavier_uniform(rngs, embed_dim, embed_dim)
            self.k_proj_weight = _xavier_uniform(rngs, embed_dim, self.kdim)
            self.v_proj_weight = _xavier_uniform(rngs, embed_dim, self.vdim)
        if bias:
            self.in_proj_bias = nnx.Param(jnp.zeros(3 * embed_dim))
        if add_bias_kv:
            self.bias_k = _xavier_normal(rngs, embed_dim)
            self.bias_v = _xavier_normal(rngs, embed_dim)
        self.out_proj = MetaLinear(embed_dim, embed_dim, bias, rngs=rngs)
        if bias:
            self.out_proj.bias = nnx.Param(jnp.zeros(embed_dim))

    def __call__(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        key_padding_mask: jax.Array | None = None,
        need_weights: bool = True,
        attn_mask: jax.Array | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Attend to `value` by how well `key` fits `query`, each `(length, batch, features)`.

        Args:
            query: `(T, batch, embed_dim)`; with `batch_first` `(batch, T, embed_dim)`; or one `(T, embed_dim)`.
            key: likewise with length S and `kdim` features.
            value: likewise with length S and `vdim` features.
            key_padding_mask: `(batch, S)`, or `(S,)` for one; `True` for keys to ignore, or floats to add.
            need_weights: whether to return the attention weights. Without them a query that may attend to nothing
                gives zeros before `out_proj`, with them NaN, as in torch.
            attn_mask: `(T, S)` or `(batch · num_heads, T, S)`; `True` where not to attend, or floats to add.
            average_attn_weights: whether to average the returned weights over the heads.
            is_causal: says that `attn_mask` is causal. The mask is what counts; torch may not look at it then.

        Returns:
            The output, like `query`, and the weights `(batch, T, S)` or `(batch, num_heads, T, S)`, or `None`.
        """
        if is_causal and attn_mask is None:
            raise ValueError("`is_causal` only describes `attn_mask`; give `attn_mask` too.")
        own = own_parameters(self)
        batched = query.ndim == 3
        self._check_inputs(query, key, value)
        query, key, value = (self._batch_first(each) for each in (query, key, value))
        if key_padding_mask is not None and not batched:
            key_padding_mask = key_padding_mask[None]
        mask = self._mask(query, key, key_padding_mask, attn_mask)
        queries, keys, values = self._project(query, key, value, own)
        scores = queries * math.sqrt(self.num_heads / self.embed_dim) @ keys.swapaxes(-1, -2)
        if mask is not None:
            added = scores.shape[-1] - mask.shape[-1]
            scores = scores + jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (0, added)))
        weights = jax.nn.softmax(scores) if need_weights else _softmax_or_zeros(scores)
        heads = (weights @ values).swapaxes(1, 2).reshape(query.shape)
        output = self.out_proj(heads)
        if average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            output, weights = output[0], weights[0]
        elif not self.batch_first:
            output = output.swapaxes(0, 1)
        return output, weights if need_weights else None

    def _check_inputs(self, query: jax.Array, key: jax.Array, value: jax.Array) -> None:
        named = {"query": (query, self.embed_dim), "key": (key, self.kdim), "value": (value, self.vdim)}
        for name, (array, features) in named.items():
            if array.ndim not in (2, 3) or array.ndim != query.ndim or array.shape[-1] != features:
                raise ValueError(
                    f"`{name}` must have two axes, or three in a batch as the query, and {features} features, "
                    f"got shape {array.shape}."
                )
        batch_axis = 0 if self.batch_first else 1
        if key.shape[:-1] != value.shape[:-1] or (query.ndim == 3 and query.shape[batch_axis] != key.shape[batch_axis]):
            raise ValueError(
                "`key` and `value` must have one length, and all inputs one batch size, "
                f"got shapes {query.shape}, {key.shape} and {value.shape}."
            )

    def _batch_first(self, array: jax.Array) -> jax.Array:
        if array.ndim == 2:
            return array[None]
        return array if self.batch_first else array.swapaxes(0, 1)

    def _mask(
        self, query: jax.Array, key: jax.Array, key_padding_mask: jax.Array | None, attn_mask: jax.Array | None
    ) -> jax.Array | None:
        """What to add to the scores, `(batch or 1, heads or 1, T or 1, S)`."""
        batch, targets, sources = len(query), query.shape[1], key.shape[1]
        mask = None
        if attn_mask is not None:
            shapes = [(targets, sources), (batch * self.num_heads, targets, sources)]
            flat = _additive("attn_mask", attn_mask, shapes, query.dtype)
            mask = flat[None, None] if flat.ndim == 2 else flat.reshape(batch, self.num_heads, targets, sources)
        if key_padding_mask is not None:
            padding = _additive("key_padding_mask", key_padding_mask, [(batch, sources)], query.dtype)[:, None, None]
            mask = padding if mask is None else mask + padding
        return mask

    def _project(
        self, query: jax.Array, key: jax.Array, value: jax.Array, own: Mapping[str, jax.Array]
    ) -> list[jax.Array]:
        """Queries, keys and values of every head, `(batch, num_heads, length, embed_dim / num_heads)`."""
        if "in_proj_weight" in own:
            projections = jnp.split(own["in_proj_weight"], 3)
        else:
            projections = [own[f"{name}_proj_weight"] for name in "qkv"]
        projected = [each @ weight.T for each, weight in zip((query, key, value), projections, strict=True)]
        if "in_proj_bias" in own:
            projected = [x + bias for x, bias in zip(projected, jnp.split(own["in_proj_bias"], 3), strict=True)]
        batch, row = len(query), (len(query), 1, self.embed_dim)
        for number, name in enumerate(("bias_k", "bias_v"), start=1):
            if name in own:
                projected[number] = jnp.concatenate([projected[number], jnp.broadcast_to(own[name], row)], axis=1)
            if self.add_zero_attn:
                projected[number] = jnp.pad(projected[number], ((0, 0), (0, 1), (0, 0)))
        width = self.embed_dim // self.num_heads
        return [x.reshape(batch, -1, self.num_heads, width).swapaxes(1, 2) for x in projected]


def _additive(name: str, mask: jax.Array, shapes: list[tuple[int, ...]], dtype: jnp.dtype) -> jax.Array:
    """A mask as numbers to add to the scores."""
    if mask.shape not in shapes:
        raise ValueError(f"`{name}` must have shape {' or '.join(map(str, shapes))}, got {mask.shape}.")
    if mask.dtype == bool:
        return jnp.where(mask, -jnp.inf, 0.0).astype(dtype)
    if not jnp.issubdtype(mask.dtype, jnp.floating):
        raise ValueError(f"`{name}` must be boolean or of floats, got {mask.dtype}.")
    return mask.astype(dtype)


def _softmax_or_zeros(scores: jax.Array) -> jax.Array:
    """Softmax over the last axis; zeros, without a gradient, where every score is -∞."""
    blocked = (scores == -jnp.inf).all(-1, keepdims=True)
    return jnp.where(blocked, 0.0, jax.nn.softmax(jnp.where(blocked, 0.0, scores)))


def _xavier_uniform(rngs: nnx.Rngs, outputs: int, inputs: int) -> nnx.Param:
    bound = math.sqrt(6.0 / (inputs + outputs))
    return nnx.Param(jax.random.uniform(rngs.params(), (outputs, inputs), minval=-bound, maxval=bound))


def _xavier_normal(rngs: nnx.Rngs, features: int) -> nnx.Param:
    return nnx.Param(jax.random.normal(rngs.params(), (1, 1, features)) / math.sqrt(features))
