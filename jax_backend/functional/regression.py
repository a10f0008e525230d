"""Linear classifiers and regressions in closed form, or by few Newton steps, on a support set."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_backend.functional.precision import full_precision
from jax_backend.functional.prototypes import indicators
from metabridge.adaptation.closed_form import check_regression_targets
from metabridge.checks import check_count

__all__ = ["LinearParameters", "logistic_regression", "ridge_regression"]


class LinearParameters(NamedTuple):
    """Parameters of a linear layer.

    Attributes:
        weight: `(…, outputs, D)`.
        bias: `(…, outputs)`, or `None`.
    """

    weight: jax.Array
    bias: jax.Array | None


@full_precision
def ridge_regression(
    embeddings: jax.Array,
    targets: jax.Array,
    reg_lambda: float | jax.Array,
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
    classifies = jnp.issubdtype(targets.dtype, jnp.integer)
    check_regression_targets(targets.shape, embeddings.shape, classifies, num_classes)
    wanted = (indicators(targets, num_classes or 0) if classifies else targets).astype(embeddings.dtype)
    inputs = jnp.concatenate([embeddings, jnp.ones_like(embeddings[..., :1])], -1) if bias else embeddings
    transposed = inputs.swapaxes(-2, -1)
    examples, features = inputs.shape[-2:]
    penalty = reg_lambda * examples if scale else reg_lambda
    if use_woodbury is None:
        use_woodbury = examples <= features
    identity = jnp.eye(examples if use_woodbury else features, dtype=inputs.dtype)
    if use_woodbury:
        solution = transposed @ jnp.linalg.solve(inputs @ transposed + penalty * identity, wanted)
    else:
        solution = jnp.linalg.solve(transposed @ inputs + penalty * identity, transposed @ wanted)
    weight = solution.swapaxes(-2, -1)
    return LinearParameters(weight[..., :-1], weight[..., -1]) if bias else LinearParameters(weight, None)


@full_precision
def logistic_regression(
    embeddings: jax.Array, targets: jax.Array, reg_lambda: float | jax.Array, num_classes: int, steps: int = 5
) -> jax.Array:
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
    labels = indicators(targets, num_classes).astype(embeddings.dtype).swapaxes(-2, -1)
    kernel = (embeddings @ embeddings.swapaxes(-2, -1))[..., None, :, :]
    identity = jnp.eye(embeddings.shape[-2], dtype=embeddings.dtype)

    def step(outputs: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        rise, fall = jnp.exp(outputs / 2), jnp.exp(-outputs / 2)
        root = 1 / (rise + fall)  # √(p (1 − p)) of p = sigmoid(outputs)
        wanted = root * outputs + labels * fall - (1 - labels) * rise  # the last two are (label − p) / root
        system = root[..., :, None] * kernel * root[..., None, :] + reg_lambda * identity
        dual = root * jnp.linalg.solve(system, wanted[..., None])[..., 0]
        return (kernel @ dual[..., None])[..., 0], dual

    _, duals = jax.lax.scan(step, jnp.zeros_like(labels), length=steps)
    return duals[-1] @ embeddings
