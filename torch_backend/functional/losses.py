"""Losses, averaged over examples."""

import torch
import torch.nn.functional as F
from torch import Tensor

from metabridge.checks import (
    check_choice,
    check_class_targets,
    check_instance,
    check_integer,
    check_same_shape,
)

__all__ = ["cross_entropy", "mean_squared_error", "negative_log_likelihood"]


def cross_entropy(outputs: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """Mean negative log-likelihood of `targets` under the softmax of `outputs`.

    Args:
        outputs: `(n, N)`; of every pixel `(n, N, H, W)`.
        targets: `(n,)` integers in [0, N); of every pixel `(n, H, W)`.
        ignore_index: a target that does not count, such as the 255 of masks. NaN if none counts.

    Raises:
        ValueError: if the targets are no integers, or of another shape.
    """
    check_arrays(outputs=outputs, targets=targets)
    check_integer(ignore_index, "ignore_index")
    check_class_targets(targets.shape, outputs.shape[:1] + outputs.shape[2:], targets.dtype, is_integer(targets))
    return F.cross_entropy(outputs, targets.long(), ignore_index=ignore_index)


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean of `(outputs − targets)²` over all entries; both `(n, outputs)`.

    Raises:
        ValueError: if the shapes differ: `(n, 1)` and `(n,)` would broadcast to `(n, n)`.
    """
    check_arrays(outputs=outputs, targets=targets)
    check_same_shape(targets.shape, outputs.shape)
    return F.mse_loss(outputs, targets)


def check_arrays(**arrays: object) -> None:
    """Raise `TypeError` unless these arguments are tensors."""
    for argument, array in arrays.items():
        check_instance(array, Tensor, argument, "convert it with torch.as_tensor")


def negative_log_likelihood(
    log_probas: Tensor, targets: Tensor, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Negative log-likelihood of `targets`, with the axis of classes before that of examples.

    Args:
        log_probas: `(…, N, n)`.
        targets: `(…, n)` integers in [0, N).
        ignore_index: a target that does not count.
        reduction: `"mean"` over the examples that count, of all tasks; `"sum"`; or `"none"`, `(…, n)`.

    Raises:
        ValueError: if the targets are no integers, or of another shape; for an unknown reduction.
    """
    check_choice(reduction, "reduction", ("mean", "sum", "none"))
    expected = log_probas.shape[:-2] + log_probas.shape[-1:]
    check_class_targets(targets.shape, expected, targets.dtype, is_integer(targets))
    classes = targets.long()
    counts = classes != ignore_index
    chosen = log_probas.gather(-2, torch.where(counts, classes, 0).unsqueeze(-2)).squeeze(-2)
    losses = torch.where(counts, -chosen, 0)
    if reduction == "none":
        return losses
    return losses.sum() / counts.sum().to(losses.dtype) if reduction == "mean" else losses.sum()


def is_integer(targets: Tensor) -> bool:
    """Whether a tensor is of a dtype of integers."""
    return not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
