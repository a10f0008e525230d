"""Losses and metrics on tensors."""

from torch_backend.functional.losses import cross_entropy, mean_squared_error
from torch_backend.functional.metrics import accuracy

__all__ = ["accuracy", "cross_entropy", "mean_squared_error"]
