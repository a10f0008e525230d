"""Metrics of predictions."""

from torch import Tensor

__all__ = ["accuracy"]


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Share of examples whose largest of `outputs` `(n, N)` is at `targets` `(n,)`; ties go to the lowest class."""
    return (outputs.argmax(-1) == targets).to(outputs.dtype).mean()
