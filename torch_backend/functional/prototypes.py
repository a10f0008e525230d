"""Prototypes of classes and distances to them."""

import torch
from torch import Tensor

from metabridge.checks import check_count
from torch_backend.functional.losses import check_arrays, negative_log_likelihood
from torch_backend.functional.precision import full_precision

__all__ = ["get_num_samples", "get_prototypes", "indicators", "prototypical_loss", "squared_distances"]


def indicators(targets: Tensor, num_classes: int) -> Tensor:
    """`(…, n, N)` booleans, whether an example belongs to a class, of targets `(…, n)`.

    A number outside of [0, N) belongs to no class.
    """
    return targets.unsqueeze(-1) == torch.arange(num_classes, device=targets.device)


def get_num_samples(targets: Tensor, num_classes: int, dtype: torch.dtype | None = None) -> Tensor:
    """How many examples each class has: `(…, N)`.

    Args:
        targets: `(…, n)` integers in [0, N); any other number belongs to no class.
        num_classes: N.
        dtype: of the result; `None` for int64.
    """
    return indicators(targets, num_classes).sum(-2).to(torch.int64 if dtype is None else dtype)


@full_precision
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
    members = indicators(targets, num_classes).to(embeddings.dtype)
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


@full_precision
def prototypical_loss(
    prototypes: Tensor, embeddings: Tensor, targets: Tensor, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Cross-entropy of the softmax over negative squared distances. Snell et al. 2017, equation 2.

    Args:
        prototypes: `(…, N, D)`.
        embeddings: `(…, n, D)`.
        targets: `(…, n)` integers in [0, N).
        ignore_index: a target that does not count.
        reduction: see `negative_log_likelihood`.
    """
    log_probas = (-squared_distances(embeddings, prototypes)).log_softmax(-1)
    return negative_log_likelihood(log_probas.transpose(-2, -1), targets, ignore_index, reduction)
