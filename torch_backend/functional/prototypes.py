"""Prototypes of classes and distances to them."""

import torch
from torch import Tensor

from metabridge.checks import check_count
from torch_backend.functional.losses import check_arrays

__all__ = ["get_prototypes", "squared_distances"]


def get_prototypes(embeddings: Tensor, targets: Tensor, num_classes: int) -> Tensor:
    """Mean embedding of every class: `(…, N, D)`. Snell et al. 2017, equation 1.

    Args:
        embeddings: `(…, n, D)`.
        targets: `(…, n)` integers in [0, N); any other number belongs to no class.
        num_classes: N.

    Returns:
        The prototypes; that of a class without examples is 0.
    """
    check_arrays(embeddings=embeddings, targets=targets)
    check_count(num_classes, "num_classes")
    members = (targets.unsqueeze(-1) == torch.arange(num_classes, device=targets.device)).to(embeddings.dtype)
    counts = members.sum(-2).clamp(min=1)
    return members.transpose(-2, -1) @ embeddings / counts.unsqueeze(-1)


def squared_distances(points: Tensor, centres: Tensor) -> Tensor:
    """Squared Euclidean distances `(…, n, N)` of points `(…, n, D)` to centres `(…, N, D)`.

    Raises:
        ValueError: if points and centres have different numbers of features.
    """
    check_arrays(points=points, centres=centres)
    if points.shape[-1] != centres.shape[-1]:
        raise ValueError(f"`centres` must have {points.shape[-1]} features like `points`, got {centres.shape[-1]}.")
    return ((points.unsqueeze(-2) - centres.unsqueeze(-3)) ** 2).sum(-1)
