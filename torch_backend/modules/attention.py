"""Multi-head attention as a MetaModule."""

from collections.abc import Mapping

from torch import Tensor, nn

from torch_backend.modules.layer import MetaLayer

__all__ = ["MetaMultiheadAttention"]


class MetaMultiheadAttention(MetaLayer, nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` with one more argument, `params=None` (Vaswani et al. 2017).

    Constructor, state dict and behaviour without `params` are those of `torch.nn.MultiheadAttention`. `params` holds
    `in_proj_weight` `(3 · embed_dim, embed_dim)`, or with other `kdim` or `vdim` the three `q_proj_weight`
    `(embed_dim, embed_dim)`, `k_proj_weight` `(embed_dim, kdim)` and `v_proj_weight` `(embed_dim, vdim)`;
    `out_proj.weight` `(embed_dim, embed_dim)`; unless `bias=False` `in_proj_bias` `(3 · embed_dim,)` and
    `out_proj.bias` `(embed_dim,)`; with `add_bias_kv` `bias_k` and `bias_v` `(1, 1, embed_dim)`.

    Where gradients are on, attention is computed without fused kernels, which have no second derivative.

    Raises:
        ValueError: in `forward`, if `params` has a missing, unknown or mis-shaped entry.
    """

    _meta_lacks_derivatives = True

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        params: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from `query` `(L, batch, embed_dim)` to `key` `(S, batch, kdim)` and `value` `(S, batch, vdim)`.

        With `batch_first=True` the batch comes first; it may be missing. The masks are those of torch.

        Returns:
            The output, of `query`'s shape, and the weights `(batch, L, S)` (`(batch, heads, L, S)` unless averaged),
            or `None` without `need_weights`.
        """
        return self._meta_run(
            params,
            query,
            key,
            value,
            key_padding_mask=key_padding_mask,
            need_weights=need_weights,
            attn_mask=attn_mask,
            average_attn_weights=average_attn_weights,
            is_causal=is_causal,
        )
