"""Attention over a support set by cosine similarity (Vinyals et al. 2016, arXiv 1606.04080)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from torch_backend.functional.losses import negative_log_likelihood
from torch_backend.functional.precision import full_precision
from torch_backend.functional.prototypes import indicators

__all__ = [
    "full_context_embeddings",
    "matching_log_probas",
    "matching_loss",
    "matching_probas",
    "pairwise_cosine_similarity",
]


@full_precision
def pairwise_cosine_similarity(embeddings1: Tensor, embeddings2: Tensor, eps: float = 1e-8) -> Tensor:
    """`⟨a, b⟩ / max(‖a‖ ‖b‖, eps)` of every pair: `(…, n, m)`.

    Args:
        embeddings1: `(…, n, D)`.
        embeddings2: `(…, m, D)`.
        eps: least product of the norms. An embedding of zeros is similar to none, and its gradient is finite.
    """
    squares = (embeddings1**2).sum(-1).unsqueeze(-1) * (embeddings2**2).sum(-1).unsqueeze(-2)
    return embeddings1 @ embeddings2.transpose(-2, -1) / squares.clamp(min=eps**2).sqrt()


@full_precision
def matching_probas(
    embeddings: Tensor, targets: Tensor, test_embeddings: Tensor, num_classes: int, eps: float = 1e-8
) -> Tensor:
    """Probabilities of the classes: `(…, N, m)`. Vinyals et al. 2016, equation 1 and section 2.1.1.

        p(c | x̂) = Σ_i softmax_i(cos(x̂, x_i)) 1[y_i = c]

    Args:
        embeddings: of the support set, `(…, n, D)`.
        targets: of the support set, `(…, n)` integers in [0, N).
        test_embeddings: of the queries, `(…, m, D)`.
        num_classes: N.
        eps: see `pairwise_cosine_similarity`.
    """
    attention = pairwise_cosine_similarity(embeddings, test_embeddings, eps).softmax(-2)
    return indicators(targets, num_classes).to(attention.dtype).transpose(-2, -1) @ attention


@full_precision
def matching_log_probas(
    embeddings: Tensor, targets: Tensor, test_embeddings: Tensor, num_classes: int, eps: float = 1e-8
) -> Tensor:
    """Logarithm of `matching_probas`, `(…, N, m)`; −∞, with the gradient 0, for a class without examples.

    No softmax of cosines underflows, so that its logarithm is as exact as a logarithm of sums of exponentials.
    """
    probas = matching_probas(embeddings, targets, test_embeddings, num_classes, eps)
    present = indicators(targets, num_classes).any(-2).unsqueeze(-1)
    return torch.where(present, torch.where(present, probas, 1).log(), -math.inf)


@full_precision
def matching_loss(
    train_embeddings: Tensor,
    train_targets: Tensor,
    test_embeddings: Tensor,
    test_targets: Tensor,
    num_classes: int,
    eps: float = 1e-8,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood of the queries' targets `(…, m)`; infinite if one's class has no support example.

    Args:
        train_embeddings: of the support set, `(…, n, D)`.
        train_targets: of the support set, `(…, n)`.
        test_embeddings: of the queries, `(…, m, D)`.
        test_targets: of the queries, `(…, m)`.
        num_classes: N.
        eps: see `pairwise_cosine_similarity`.
        ignore_index: a target that does not count.
        reduction: see `negative_log_likelihood`.
    """
    log_probas = matching_log_probas(train_embeddings, train_targets, test_embeddings, num_classes, eps)
    return negative_log_likelihood(log_probas, test_targets, ignore_index, reduction)


def full_context_embeddings(
    embeddings: Tensor, test_embeddings: Tensor, params: Mapping[str, Tensor], processing_steps: int
) -> tuple[Tensor, Tensor]:
    """Embeddings of support set and queries that depend on the whole support set. Vinyals et al. 2016, appendix A.

    Support examples pass an LSTM in both directions, `g_i = →h_i + ←h_i + x_i`. A query x̂ passes an LSTM that attends
    to them, from `h = c = 0`, `processing_steps` times:

        r = Σ_i softmax_i(⟨h, g_i⟩) g_i,  ĥ, c = LSTM(x̂, [h, r], c),  h = ĥ + x̂

    Args:
        embeddings: of the support set, `(n, D)`; the order matters.
        test_embeddings: of the queries, `(m, D)`.
        params: of the LSTMs `forward`, `backward` and `attention`: `<lstm>_inputs` `(4D, D)`, `<lstm>_hidden`
            `(4D, D)`, that of `attention` `(4D, 2D)`, and `<lstm>_bias` `(4D,)`; gates in PyTorch's order.
        processing_steps: the paper's K.

    Returns:
        The embeddings `(n, D)` and `(m, D)`.
    """
    backward = _lstm(embeddings.flip(0), params, "backward").flip(0)
    support = embeddings + _lstm(embeddings, params, "forward") + backward
    hidden = cell = torch.zeros_like(test_embeddings)
    for _ in range(processing_steps):
        read = (hidden @ support.T).softmax(-1) @ support
        hidden, cell = _lstm_cell(test_embeddings, torch.cat([hidden, read], -1), cell, params, "attention")
        hidden = hidden + test_embeddings
    return support, hidden


def _lstm(sequence: Tensor, params: Mapping[str, Tensor], name: str) -> Tensor:
    """Hidden states `(n, D)` along a sequence `(n, D)`."""
    hidden = cell = torch.zeros_like(sequence[0])
    states = []
    for inputs in sequence:
        hidden, cell = _lstm_cell(inputs, hidden, cell, params, name)
        states.append(hidden)
    return torch.stack(states)


def _lstm_cell(
    inputs: Tensor, hidden: Tensor, cell: Tensor, params: Mapping[str, Tensor], name: str
) -> tuple[Tensor, Tensor]:
    sums = inputs @ params[f"{name}_inputs"].T + hidden @ params[f"{name}_hidden"].T + params[f"{name}_bias"]
    enter, keep, value, leave = sums.chunk(4, -1)
    cell = keep.sigmoid() * cell + enter.sigmoid() * value.tanh()
    return leave.sigmoid() * cell.tanh(), cell
