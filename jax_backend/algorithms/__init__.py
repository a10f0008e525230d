"""Meta-learning algorithms, one file each, and the table that finds them by record."""

from typing import Any

from jax_backend.algorithms.algorithm import Algorithm
from jax_backend.algorithms.anil import ANIL
from jax_backend.algorithms.cavia import CAVIA
from jax_backend.algorithms.fomaml import FirstOrderMAML
from jax_backend.algorithms.maml import MAML
from jax_backend.algorithms.maml_plus_plus import MAMLPlusPlus
from jax_backend.algorithms.meta_sgd import MetaSGD
from jax_backend.algorithms.proto_maml import ProtoMAML
from jax_backend.algorithms.prototypical import Prototypical
from jax_backend.algorithms.reptile import Reptile

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
