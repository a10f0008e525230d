"""MetaModules: torch layers whose parameters may be given from outside, so that gradients flow through an update."""

from torch_backend.modules.batchnorm import MetaBatchNorm2d
from torch_backend.modules.container import MetaSequential
from torch_backend.modules.conv import MetaConv2d
from torch_backend.modules.linear import MetaLinear
from torch_backend.modules.module import MetaModule

__all__ = ["MetaBatchNorm2d", "MetaConv2d", "MetaLinear", "MetaModule", "MetaSequential"]
