"""Linear classifiers and regressions in closed form, or by few Newton steps, on a support set."""

from typing import NamedTuple

import torch
from torch import Tensor

from metabridge.adaptation.closed_form import check_regression_targets
from metabridge.checks import check_count
from torch_backend.functional.losses import is_integer
from torch_backend.functional.precision import full_precision
from torch_backend.functional.prototypes import indicators

__all__ = ["LinearParameters", "logistic_regression", "ridge_regression"]


class LinearParameters(NamedTuple):
    """Parameters of a linear layer.

    Attributes:
        weight: `(…, outputs, D)`.
        bias: `(…, outputs)`, or `None`.
    """

    weight: Tensor
    bias: Tensor | None


@full_precision
def ridge_regression(
    embeddings: Tensor,
    targets: Tensor,
    reg_lambda: float | Tensor,
    num_classes: int | None = None,
    use_woodbury: bool | None = None,
    scale: bool = True,
    bias: bool = True,
) -> LinearParameters:
    """The minimum of `‖X Wᵀ + b − Y‖² / n + λ (‖W‖² + ‖b‖²)`.

    Bertinetto et al. 2019 (arXiv 1805.08136), equations 4 to 6, where errors are not divided by n and there is no b.

    Args:
        embeddings: X, `(…, n, D)`.
        targets: classes `(…, n)`, which become one-hot vectors, or numbers `(…, n, outputs)`. A class outside of
            [0, N) becomes a vector of zeros.
        reg_lambda: λ, above 0, a number or a scalar array.
        num_classes: N, for classes.
        use_woodbury: solve n equations, by Woodbury's identity, and not D; `None` for the fewer.
        scale: divide the squared errors by n.
        bias: whether there is a bias, which is regularised too.

    Raises:
        ValueError: for classes without `num_classes`, or targets of another shape.
    """
    classifies = is_integer(targets)
    check_regression_targets(targets.shape, embeddings.shape, classifies, num_classes)
    wanted = (indicators(targets, num_classes or 0) if classifies else targets).to(embeddings.dtype)
    inputs = torch.cat([embeddings, torch.ones_like(embeddings[..., :1])], -1) if bias else embeddings
    transposed = inputs.transpose(-2, -1)
    examples, features = inputs.shape[-2:]
    penalty = reg_lambda * examples if scale else reg_lambda
    if use_woodbury is None:
        use_woodbury = examples <= features
    identity = torch.eye(examples if use_woodbury else features, dtype=inputs.dtype, device=inputs.device)
    if use_woodbury:
        solution = transposed @ torch.linalg.solve(inputs @ transposed + penalty * identity, wanted)
    else:
        solution = torch.linalg.solve(transposed @ inputs + penalty * identity, transposed @ wanted)
    weight = solution.transpose(-2, -1)
    return LinearParameters(weight[..., :-1], weight[..., -1]) if bias else LinearParameters(weight, None)


@full_precision
def logistic_regression(
    embeddings: Tensor, targets: Tensor, reg_lambda: float | Tensor, num_classes: int, steps: int = 5
) -> Tensor:
    """Weights `(…, N, D)` of one logistic regression for every class against the others, by Newton steps from 0.

    Class c minimises `Σ_i log(1 + exp(−t_i ⟨w, x_i⟩)) + λ ‖w‖² / 2` with `t_i = 1` where `y_i = c`, else −1. A step is
    a ridge regression with weights (iteratively reweighted least squares), solved for the n examples by Woodbury's
    identity. Bertinetto et al. 2019 (arXiv 1805.08136), equations 7 to 9.

    Args:
        embeddings: `(…, n, D)`.
        targets: `(…, n)` integers in [0, N).
        reg_lambda: λ, above 0, a number or a scalar array.
        num_classes: N.
        steps: Newton steps.
    """
    check_count(steps, "steps")
    labels = indicators(targets, num_classes).to(embeddings.dtype).transpose(-2, -1)
    kernel = (embeddings @ embeddings.transpose(-2, -1)).unsqueeze(-3)
    identity = torch.eye(embeddings.shape[-2], dtype=embeddings.dtype, device=embeddings.device)
    outputs = dual = torch.zeros_like(labels)
    for _ in range(steps):
        rise, fall = (outputs / 2).exp(), (-outputs / 2).exp()
        root = 1 / (rise + fall)  # √(p (1 − p)) of p = sigmoid(outputs)
        wanted = root * outputs + labels * fall - (1 - labels) * rise  # the last two are (label − p) / root
        system = root.unsqueeze(-1) * kernel * root.unsqueeze(-2) + reg_lambda * identity
        dual = root * torch.linalg.solve(system, wanted.unsqueeze(-1)).squeeze(-1)
        outputs = (kernel @ dual.unsqueeze(-1)).squeeze(-1)
    return dual @ embeddings
