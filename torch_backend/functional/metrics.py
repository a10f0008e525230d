"""Metrics of predictions."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from metabridge.checks import check_class_targets, check_integer
from torch_backend.functional.losses import check_arrays, is_integer
from torch_backend.functional.matching import pairwise_cosine_similarity
from torch_backend.functional.precision import full_precision
from torch_backend.functional.prototypes import get_prototypes, indicators

__all__ = ["accuracy", "hardness_metric"]


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


def hardness_metric(
    batch: Mapping[str, tuple[Tensor, Tensor]], num_classes: int, backbone: Callable[[Any], Tensor]
) -> Tensor:
    """How hard episodes are for given features, the queries' mean log-odds of being wrong: `(B,)`.

    Dhillon et al. 2020 (arXiv 1909.02729), section 4.4: `log((1 − p) / p)` of the probability p of a query's class, by
    the softmax of its cosine similarities to the mean features of the classes. Higher is harder.

    Args:
        batch: B tasks.
        num_classes: N, at least 2.
        backbone: images or vectors `(examples, …)` → features `(examples, D)`, such as a network trained on ImageNet;
            the paper's is a ResNet-152.
    """

    def features(inputs: Tensor) -> Tensor:
        return backbone(inputs.flatten(0, 1)).reshape(*inputs.shape[:2], -1)

    (inputs, targets), (test_inputs, test_targets) = batch["train"], batch["test"]
    return _log_odds(features(inputs), targets, features(test_inputs), test_targets, num_classes)


@full_precision
def _log_odds(
    embeddings: Tensor, targets: Tensor, test_embeddings: Tensor, test_targets: Tensor, num_classes: int
) -> Tensor:
    centres = get_prototypes(embeddings, targets, num_classes)
    similarities = pairwise_cosine_similarity(test_embeddings, centres)
    own = indicators(test_targets, num_classes)
    return (torch.where(own, -torch.inf, similarities).logsumexp(-1) - similarities.where(own, 0).sum(-1)).mean(-1)
