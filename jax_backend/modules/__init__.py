"""MetaModules: Flax NNX layers whose parameters may be given from outside, so that gradients flow through an update.

Every layer takes `rngs`, the source of its initial parameters, by name, as Flax's layers do:

>>> from flax import nnx
>>> from jax_backend.modules import MetaBatchNorm1d, MetaLinear, MetaSequential
>>> rngs = nnx.Rngs(0)
>>> network = MetaSequential(MetaLinear(3, 8, rngs=rngs), MetaBatchNorm1d(8, rngs=rngs), MetaLinear(8, 2, rngs=rngs))
>>> [name for name, _ in network.meta_named_parameters()]
['0.weight', '0.bias', '1.weight', '1.bias', '2.weight', '2.bias']
"""

from jax_backend.modules.activation import MetaPReLU, leaky_relu
from jax_backend.modules.attention import MetaMultiheadAttention
from jax_backend.modules.batchnorm import MetaBatchNorm1d, MetaBatchNorm2d, MetaBatchNorm3d
from jax_backend.modules.buffers import call_with_buffers
from jax_backend.modules.container import MetaModuleDict, MetaModuleList, MetaSequential
from jax_backend.modules.conv import (
    MetaConv1d,
    MetaConv2d,
    MetaConv3d,
    MetaConvTranspose1d,
    MetaConvTranspose2d,
    MetaConvTranspose3d,
)
from jax_backend.modules.embedding import MetaEmbedding, MetaEmbeddingBag
from jax_backend.modules.linear import MetaBilinear, MetaLinear
from jax_backend.modules.module import MetaModule
from jax_backend.modules.normalisation import (
    MetaGroupNorm,
    MetaInstanceNorm1d,
    MetaInstanceNorm2d,
    MetaInstanceNorm3d,
    MetaLayerNorm,
    MetaRMSNorm,
)
from jax_backend.modules.pooling import Flatten, MaxPool2d
from jax_backend.modules.rnn import MetaGRUCell, MetaLSTMCell, MetaRNNCell
from jax_backend.modules.wrapping import as_meta_module

__all__ = [
    "Flatten",
    "MaxPool2d",
    "MetaBatchNorm1d",
    "MetaBatchNorm2d",
    "MetaBatchNorm3d",
    "MetaBilinear",
    "MetaConv1d",
    "MetaConv2d",
    "MetaConv3d",
    "MetaConvTranspose1d",
    "MetaConvTranspose2d",
    "MetaConvTranspose3d",
    "MetaEmbedding",
    "MetaEmbeddingBag",
    "MetaGRUCell",
    "MetaGroupNorm",
    "MetaInstanceNorm1d",
    "MetaInstanceNorm2d",
    "MetaInstanceNorm3d",
    "MetaLSTMCell",
    "MetaLayerNorm",
    "MetaLinear",
    "MetaModule",
    "MetaModuleDict",
    "MetaModuleList",
    "MetaMultiheadAttention",
    "MetaPReLU",
    "MetaRMSNorm",
    "MetaRNNCell",
    "MetaSequential",
    "as_meta_module",
    "call_with_buffers",
    "leaky_relu",
]
