"""Losses and metrics on arrays."""

from jax_backend.functional.losses import cross_entropy, mean_squared_error
from jax_backend.functional.metrics import accuracy

__all__ = ["accuracy", "cross_entropy", "mean_squared_error"]
