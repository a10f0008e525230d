"""Losses, averaged over examples."""

import torch.nn.functional as F
from torch import Tensor

__all__ = ["cross_entropy", "mean_squared_error"]


def cross_entropy(outputs: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """Mean negative log-likelihood of `targets` under the softmax of `outputs`.

    Args:
        outputs: `(n, N)`; of every pixel `(n, N, H, W)`.
        targets: `(n,)` integers in [0, N); of every pixel `(n, H, W)`.
        ignore_index: a target that does not count, such as the 255 of masks. NaN if none counts.
    """
    return F.cross_entropy(outputs, targets, ignore_index=ignore_index)


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean of `(outputs − targets)²` over all entries; both `(n, outputs)`.

    Raises:
        ValueError: if the shapes differ: `(n, 1)` and `(n,)` would broadcast to `(n, n)`.
    """
    if outputs.shape != targets.shape:
        raise ValueError(
            f"`targets` must have the shape of `outputs`, {tuple(outputs.shape)}, got {tuple(targets.shape)}."
        )
    return F.mse_loss(outputs, targets)
