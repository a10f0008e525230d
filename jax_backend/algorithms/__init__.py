"""Meta-learning algorithms, one file each."""

from jax_backend.algorithms.maml import MAML

__all__ = ["MAML"]
