"""MetaModules: Flax NNX layers whose parameters may be given from outside, so that gradients flow through an update."""

from jax_backend.modules.batchnorm import MetaBatchNorm2d
from jax_backend.modules.container import MetaSequential
from jax_backend.modules.conv import MetaConv2d
from jax_backend.modules.linear import MetaLinear
from jax_backend.modules.module import MetaModule
from jax_backend.modules.pooling import MaxPool2d

__all__ = ["MaxPool2d", "MetaBatchNorm2d", "MetaConv2d", "MetaLinear", "MetaModule", "MetaSequential"]
