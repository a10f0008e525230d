"""Meta-learning algorithms, one file each, and the table that finds them by record."""

from typing import Any

from torch_backend.algorithms.algorithm import Algorithm
from torch_backend.algorithms.anil import ANIL
from torch_backend.algorithms.cavia import CAVIA
from torch_backend.algorithms.embedding import EmbeddingAlgorithm
from torch_backend.algorithms.fomaml import FirstOrderMAML
from torch_backend.algorithms.imaml import ImplicitMAML
from torch_backend.algorithms.lrd2 import LRD2
from torch_backend.algorithms.maml import MAML
from torch_backend.algorithms.maml_plus_plus import MAMLPlusPlus
from torch_backend.algorithms.matching import Matching
from torch_backend.algorithms.meta_sgd import MetaSGD
from torch_backend.algorithms.metaoptnet import MetaOptNet
from torch_backend.algorithms.proto_maml import ProtoMAML
from torch_backend.algorithms.prototypical import Prototypical
from torch_backend.algorithms.r2d2 import R2D2
from torch_backend.algorithms.relation import RelationNetwork
from torch_backend.algorithms.reptile import Reptile

__all__ = [
    "ALGORITHMS",
    "ANIL",
    "CAVIA",
    "LRD2",
    "MAML",
    "R2D2",
    "Algorithm",
    "EmbeddingAlgorithm",
    "FirstOrderMAML",
    "ImplicitMAML",
    "MAMLPlusPlus",
    "Matching",
    "MetaOptNet",
    "MetaSGD",
    "ProtoMAML",
    "Prototypical",
    "RelationNetwork",
    "Reptile",
]

ALGORITHMS: dict[str, Any] = {
    "maml": MAML,
    "fomaml": FirstOrderMAML,
    "anil": ANIL,
    "meta-sgd": MetaSGD,
    "imaml": ImplicitMAML,
    "reptile": Reptile,
    "proto-maml": ProtoMAML,
    "cavia": CAVIA,
    "maml++": MAMLPlusPlus,
    "protonet": Prototypical,
    "matching": Matching,
    "relation": RelationNetwork,
    "r2d2": R2D2,
    "lrd2": LRD2,
    "metaoptnet": MetaOptNet,
}
"""Name of a record of `metabridge.configs.algorithms` → the class whose `from_config` makes the algorithm."""
