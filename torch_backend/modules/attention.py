"""Multi-head attention as a MetaModule."""

from torch import nn

from torch_backend.modules.module import MetaLayer

__all__ = ["MetaMultiheadAttention"]


class MetaMultiheadAttention(MetaLayer, nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` with one more argument, `params=None` (Vaswani et al. 2017).

    Attend from `query` `(L, batch, embed_dim)` to `key` `(S, batch, kdim)` and `value` `(S, batch, vdim)`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.MultiheadAttention`. `params` holds
    `in_proj_weight` `(3 · embed_dim, embed_dim)`, or with other `kdim` or `vdim` the three `q_proj_weight`
    `(embed_dim, embed_dim)`, `k_proj_weight` `(embed_dim, kdim)` and `v_proj_weight` `(embed_dim, vdim)`;
    `out_proj.weight` `(embed_dim, embed_dim)`; unless `bias=False` `in_proj_bias` `(3 · embed_dim,)` and
    `out_proj.bias` `(embed_dim,)`; with `add_bias_kv` `bias_k` and `bias_v` `(1, 1, embed_dim)`.

    Where gradients are on, attention is computed without fused kernels, which have no second derivative.
    """

    _meta_lacks_derivatives = True
