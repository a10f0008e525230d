"""MetaModules: torch layers whose parameters may be given from outside, so that gradients flow through an update."""

from torch_backend.modules.activation import MetaPReLU
from torch_backend.modules.attention import MetaMultiheadAttention
from torch_backend.modules.batchnorm import MetaBatchNorm1d, MetaBatchNorm2d, MetaBatchNorm3d
from torch_backend.modules.buffers import call_with_buffers
from torch_backend.modules.container import MetaModuleDict, MetaModuleList, MetaSequential
from torch_backend.modules.conv import (
    MetaConv1d,
    MetaConv2d,
    MetaConv3d,
    MetaConvTranspose1d,
    MetaConvTranspose2d,
    MetaConvTranspose3d,
)
from torch_backend.modules.embedding import MetaEmbedding, MetaEmbeddingBag
from torch_backend.modules.linear import MetaBilinear, MetaLinear
from torch_backend.modules.module import MetaModule
from torch_backend.modules.normalisation import (
    MetaGroupNorm,
    MetaInstanceNorm1d,
    MetaInstanceNorm2d,
    MetaInstanceNorm3d,
    MetaLayerNorm,
    MetaRMSNorm,
)
from torch_backend.modules.parallel import DataParallel
from torch_backend.modules.rnn import MetaGRUCell, MetaLSTMCell, MetaRNNCell
from torch_backend.modules.wrapping import as_meta_module

__all__ = [
    "DataParallel",
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
]
