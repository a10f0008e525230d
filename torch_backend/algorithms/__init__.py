"""Meta-learning algorithms, one file each."""

from torch_backend.algorithms.maml import MAML

__all__ = ["MAML"]
