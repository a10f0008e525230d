"""Meta-learning algorithms, one file each, and the table that finds them by record."""

from typing import Any

from jax_backend.algorithms.algorithm import Algorithm
from jax_backend.algorithms.anil import ANIL
from jax_backend.algorithms.cavia import CAVIA
from jax_backend.algorithms.embedding import EmbeddingAlgorithm
from jax_backend.algorithms.fomaml import FirstOrderMAML
from jax_backend.algorithms.imaml import ImplicitMAML
from jax_backend.algorithms.lrd2 import LRD2
from jax_backend.algorithms.maml import MAML
from jax_backend.algorithms.maml_plus_plus import MAMLPlusPlus
from jax_backend.algorithms.matching import Matching
from jax_backend.algorithms.meta_sgd import MetaSGD
from jax_backend.algorithms.metaoptnet import MetaOptNet
from jax_backend.algorithms.proto_maml import ProtoMAML
from jax_backend.algorithms.prototypical import Prototypical
from jax_backend.algorithms.r2d2 import R2D2
from jax_backend.algorithms.relation import RelationNetwork
from jax_backend.algorithms.reptile import Reptile

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
