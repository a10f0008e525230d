"""Meta-learning algorithms, one file each, and the table that finds them by record."""

from typing import Any

from torch_backend.algorithms.algorithm import Algorithm
from torch_backend.algorithms.anil import ANIL
from torch_backend.algorithms.cavia import CAVIA
from torch_backend.algorithms.fomaml import FirstOrderMAML
from torch_backend.algorithms.maml import MAML
from torch_backend.algorithms.maml_plus_plus import MAMLPlusPlus
from torch_backend.algorithms.meta_sgd import MetaSGD
from torch_backend.algorithms.proto_maml import ProtoMAML
from torch_backend.algorithms.prototypical import Prototypical
from torch_backend.algorithms.reptile import Reptile

__all__ = [
    "ALGORITHMS",
    "ANIL",
    "CAVIA",
    "MAML",
    "Algorithm",
    "FirstOrderMAML",
    "MAMLPlusPlus",
    "MetaSGD",
    "ProtoMAML",
    "Prototypical",
    "Reptile",
]

ALGORITHMS: dict[str, Any] = {
    "maml": MAML,
    "fomaml": FirstOrderMAML,
    "anil": ANIL,
    "meta-sgd": MetaSGD,
    "reptile": Reptile,
    "proto-maml": ProtoMAML,
    "cavia": CAVIA,
    "maml++": MAMLPlusPlus,
    "protonet": Prototypical,
}
"""Name of a record of `metabridge.configs.algorithms` → the class whose `from_config` makes the algorithm."""
