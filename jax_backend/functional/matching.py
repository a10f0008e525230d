"""Attention over a support set by cosine similarity (Vinyals et al. 2016, arXiv 1606.04080)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jax_backend.functional.losses import negative_log_likelihood
from jax_backend.functional.precision import full_precision
from jax_backend.functional.prototypes import indicators

__all__ = [
    "full_context_embeddings",
    "matching_log_probas",
    "matching_loss",
    "matching_probas",
    "pairwise_cosine_similarity",
]


@full_precision
def pairwise_cosine_similarity(embeddings1: jax.Array, embeddings2: jax.Array, eps: float = 1e-8) -> jax.Array:
    """`⟨a, b⟩ / max(‖a‖ ‖b‖, eps)` of every pair: `(…, n, m)`.

    Args:
        embeddings1: `(…, n, D)`.
        embeddings2: `(…, m, D)`.
        eps: least product of the norms. An embedding of zeros is similar to none, and its gradient is finite.
    """
    squares = (embeddings1**2).sum(-1)[..., :, None] * (embeddings2**2).sum(-1)[..., None, :]
    return embeddings1 @ embeddings2.swapaxes(-2, -1) / jnp.sqrt(jnp.maximum(squares, eps**2))


@full_precision
def matching_probas(
    embeddings: jax.Array, targets: jax.Array, test_embeddings: jax.Array, num_classes: int, eps: float = 1e-8
) -> jax.Array:
    """Probabilities of the classes: `(…, N, m)`. Vinyals et al. 2016, equation 1 and section 2.1.1.

        p(c | x̂) = Σ_i softmax_i(cos(x̂, x_i)) 1[y_i = c]

    Args:
        embeddings: of the support set, `(…, n, D)`.
        targets: of the support set, `(…, n)` integers in [0, N).
        test_embeddings: of the queries, `(…, m, D)`.
        num_classes: N.
        eps: see `pairwise_cosine_similarity`.
    """
    attention = jax.nn.softmax(pairwise_cosine_similarity(embeddings, test_embeddings, eps), axis=-2)
    return indicators(targets, num_classes).astype(attention.dtype).swapaxes(-2, -1) @ attention


@full_precision
def matching_log_probas(
    embeddings: jax.Array, targets: jax.Array, test_embeddings: jax.Array, num_classes: int, eps: float = 1e-8
) -> jax.Array:
    """Logarithm of `matching_probas`, `(…, N, m)`; −∞, with the gradient 0, for a class without examples.

    No softmax of cosines underflows, so that its logarithm is as exact as a logarithm of sums of exponentials.
    """
    probas = matching_probas(embeddings, targets, test_embeddings, num_classes, eps)
    present = indicators(targets, num_classes).any(-2)[..., None]
    return jnp.where(present, jnp.log(jnp.where(present, probas, 1)), -jnp.inf)


@full_precision
def matching_loss(
    train_embeddings: jax.Array,
    train_targets: jax.Array,
    test_embeddings: jax.Array,
    test_targets: jax.Array,
    num_classes: int,
    eps: float = 1e-8,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> jax.Array:
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
    embeddings: jax.Array, test_embeddings: jax.Array, params: Mapping[str, jax.Array], processing_steps: int
) -> tuple[jax.Array, jax.Array]:
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
    backward = _lstm(embeddings[::-1], params, "backward")[::-1]
    support = embeddings + _lstm(embeddings, params, "forward") + backward
    hidden = cell = jnp.zeros_like(test_embeddings)
    for _ in range(processing_steps):
        read = jax.nn.softmax(hidden @ support.T) @ support
        hidden, cell = _lstm_cell(test_embeddings, jnp.concatenate([hidden, read], -1), cell, params, "attention")
        hidden = hidden + test_embeddings
    return support, hidden


def _lstm(sequence: jax.Array, params: Mapping[str, jax.Array], name: str) -> jax.Array:
    """Hidden states `(n, D)` along a sequence `(n, D)`."""

    def step(state: tuple[jax.Array, jax.Array], inputs: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        state = _lstm_cell(inputs, *state, params, name)
        return state, state[0]

    start = jnp.zeros_like(sequence[0])
    return jax.lax.scan(step, (start, start), sequence)[1]


def _lstm_cell(
    inputs: jax.Array, hidden: jax.Array, cell: jax.Array, params: Mapping[str, jax.Array], name: str
) -> tuple[jax.Array, jax.Array]:
    sums = inputs @ params[f"{name}_inputs"].T + hidden @ params[f"{name}_hidden"].T + params[f"{name}_bias"]
    enter, keep, value, leave = jnp.split(sums, 4, -1)
    cell = jax.nn.sigmoid(keep) * cell + jax.nn.sigmoid(enter) * jnp.tanh(value)
    return jax.nn.sigmoid(leave) * jnp.tanh(cell), cell
