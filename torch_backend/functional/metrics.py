"""Metrics of predictions."""

import torch
from torch import Tensor

from metabridge.checks import check_class_targets, check_integer
from torch_backend.functional.losses import check_arrays, is_integer

__all__ = ["accuracy"]


def accuracy(outputs: Tensor, targets: Tensor, ignore_index: int = -100) -> Tensor:
    """Share of examples whose largest output is at their target; ties go to the lowest class.

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
    classes = targets.long()
    counts = classes != ignore_index
    right = (outputs.argmax(1) == classes) & counts
    wide = torch.promote_types(outputs.dtype, torch.float32)  # half precision cannot count the pixels of a mask
    return (right.sum().to(wide) / counts.sum().to(wide)).to(outputs.dtype)
