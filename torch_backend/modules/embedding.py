"""Embeddings as MetaModules."""

from torch import nn

from torch_backend.modules.module import MetaLayer

__all__ = ["MetaEmbedding", "MetaEmbeddingBag"]


class MetaEmbedding(MetaLayer, nn.Embedding):
    """`torch.nn.Embedding` with `forward(input, params=None)`.

    Map integers `(...)` to rows `(..., embedding_dim)`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.Embedding`. `params` holds
    `weight` `(num_embeddings, embedding_dim)`. With `params` gradients are dense, also for `sparse=True`.

    Raises:
        ValueError: in `forward`, if `params` is given to a layer with `max_norm`, which would write into it.
        IndexError: in `forward`, for an index outside the table.
    """


class MetaEmbeddingBag(MetaLayer, nn.EmbeddingBag):
    """`torch.nn.EmbeddingBag` with `forward(input, offsets=None, per_sample_weights=None, params=None)`.

    Map bags of integers, `(batch, n)` or `(n,)` with the starts as `offsets`, to `(batch, embedding_dim)`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.EmbeddingBag`. `params` holds
    `weight` `(num_embeddings, embedding_dim)`. Gradients can be differentiated again, which torch's own cannot
    (without `params` not if `max_norm`, `scale_grad_by_freq` or `sparse` is set); with `params` they are dense.

    Raises:
        ValueError: in `forward`, if `params` is given to a layer with `max_norm` or `scale_grad_by_freq`.
        IndexError: in `forward`, for an index outside the table.
    """

    _meta_lacks_derivatives = True
