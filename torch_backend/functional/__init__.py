"""Losses, metrics and prototypes on tensors."""

from torch_backend.functional.losses import cross_entropy, mean_squared_error
from torch_backend.functional.metrics import accuracy
from torch_backend.functional.prototypes import get_prototypes, squared_distances

__all__ = ["accuracy", "cross_entropy", "get_prototypes", "mean_squared_error", "squared_distances"]
