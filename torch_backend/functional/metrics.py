"""Metrics of predictions."""

import torch
from torch import Tensor

__all__ = ["accuracy"]


def accuracy(outputs: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """Share of examples whose largest output is at their target; ties go to the lowest class.

    Args:
        outputs: `(n, N)`; of every pixel `(n, N, H, W)`.
        targets: `(n,)` integers in [0, N); of every pixel `(n, H, W)`.
        ignore_index: a target that does not count, such as the 255 of masks. NaN if none counts.
    """
    counts = targets != ignore_index
    right = (outputs.argmax(1) == targets) & counts
    wide = torch.promote_types(outputs.dtype, torch.float32)  # half precision cannot count the pixels of a mask
    return (right.sum().to(wide) / counts.sum().to(wide)).to(outputs.dtype)
