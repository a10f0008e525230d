"""Optimisers of the inner loop, through which gradients flow: Optax's gradient transformations.

An optimiser is `init(params)` → state and `update(gradients, state, params)` → (updates, state). Updates are *added*
to the parameters. Any transformation of Optax is one, if it needs no more than that; those here are the mirror of
`torch_backend.optimisers`, with derivatives that are finite at zero gradients, where those of `optax.adam` and
`optax.clip_by_global_norm` are NaN.

An update has the dtype of its gradient, whatever the dtype of a learning rate, and a state keeps its dtypes. Inside,
gradients of 16 bits are computed with in float32. The gradient of a complex parameter points uphill: it is the
conjugate of that of `jax.grad`.

>>> import jax.numpy as jnp
>>> params = {"weight": jnp.array([1.0, -2.0])}
>>> optimiser = chain(clip_by_global_norm(1.0), sgd(0.5))
>>> updates, state = optimiser.update({"weight": jnp.array([3.0, 4.0])}, optimiser.init(params), params)
>>> print(updates["weight"])
[-0.3 -0.4]
"""

import functools
import math
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_backend.trees import named_leaves
from metabridge.adaptation.rates import check_adam, check_optimiser, check_rate, check_sgd, rate_at_step, rates_by_name
from metabridge.checks import check_instance, check_positive, require
from metabridge.configs import OptimiserConfig

__all__ = [
    "AdamState",
    "LearningRate",
    "Optimiser",
    "StepSize",
    "adam",
    "chain",
    "clip_by_global_norm",
    "from_config",
    "sgd",
]

StepSize = float | jax.Array | Mapping[str, jax.Array | float]

LearningRate = StepSize | Callable[[Any], StepSize]
"""How far a step goes; everything that is an array can be learned.

- A number, a scalar array, or one that broadcasts to the shape of every parameter.
- A mapping name → number or array that broadcasts to the parameter's shape, for every adapted parameter and no other.
  A rate for every entry is Meta-SGD (Li, Zhou, Chen, Li 2017, arXiv 1707.09835, equation 2: their alpha).
- A function of the step (0, 1, …) that returns any of these. A rate for every name and step is the LSLR of MAML++
  (Antoniou, Edwards, Storkey 2019, arXiv 1810.09502, section 4: per-layer per-step learning rates). The step may be
  a traced array, so index arrays with it, not lists.
"""

Optimiser: TypeAlias = optax.GradientTransformation
"""A pair of pure functions (init, update)."""

FOREIGN = ("torch_backend",)
"""Packages whose optimisers compute with another framework's arrays."""


def sgd(learning_rate: LearningRate, momentum: float = 0.0, nesterov: bool = False) -> Optimiser:
    """Gradient descent, with momentum if it is not 0: `optax.sgd` and `torch.optim.SGD` without dampening.

    Args:
        learning_rate: see `LearningRate`.
        momentum: share of the last step's velocity that is kept, in [0, 1).
        nesterov: look one step ahead (Sutskever et al. 2013).

    Raises:
        ValueError: if a number is outside its range, or `nesterov` comes without momentum; in `update`, if a learning
            rate by name lacks a name or has an unknown one, or a rate has a wrong shape.
    """
    check_sgd(learning_rate, momentum, nesterov)
    down = _scale_by_learning_rate(learning_rate)
    return optax.chain(_trace(float(momentum), nesterov), down) if momentum else down


def adam(
    learning_rate: LearningRate, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, eps_root: float = 1e-30
) -> Optimiser:
    """Adam (Kingma, Ba 2015, arXiv 1412.6980, algorithm 1): `optax.adam` and `torch.optim.Adam`.

    Both moments are in float32 at least: the squares of small gradients, and `eps`, are zero in float16. The second
    moment of a complex gradient is the mean of |g|², as in Optax; `torch.optim.Adam` takes real and imaginary parts as
    two parameters.

    `eps_root` stands under the root, `m / (√(v + eps_root) + eps)`. Where a gradient has been exactly zero, as behind
    a dead ReLU, the root would have an infinite derivative and the meta-gradient would be NaN. The default is far
    below what the values can show: it changes an update by at most 5e-15 of the learning rate. It is also far above
    the least normal number of float32, so it holds in both precisions. The exact zero `eps_root=0` is for values
    alone.

    Args:
        learning_rate: see `LearningRate`.
        b1: decay rate of the first moment, in [0, 1).
        b2: decay rate of the second moment, in [0, 1).
        eps: added to the root.
        eps_root: added under the root.

    Raises:
        ValueError: if a number is outside its range; in `update`, if a learning rate by name lacks a name or has an
            unknown one, or a rate has a wrong shape.
    """
    check_adam(learning_rate, b1, b2, eps, eps_root)
    numbers = (float(each) for each in (b1, b2, eps, eps_root))
    return optax.chain(_scale_by_adam(*numbers), _scale_by_learning_rate(learning_rate))


def from_config(config: OptimiserConfig) -> Optimiser:
    """The outer optimiser of a record. Its updates are for values alone: Adam has `eps_root=0`."""
    check_instance(config, OptimiserConfig, "config")
    if config.name == "sgd":
        return sgd(config.learning_rate, config.momentum)
    return adam(config.learning_rate, *config.betas, config.eps, eps_root=0.0)


def clip_by_global_norm(max_norm: float) -> Optimiser:
    """Shorten the gradients, all together, to `max_norm` if their norm is larger (Pascanu, Mikolov, Bengio 2013).

    Comes before the optimiser proper: `chain(clip_by_global_norm(1.0), sgd(0.1))`. It is differentiated as the
    function it is: where it shortens, the norm depends on the gradients too. At `max_norm` exactly it counts as the
    identity, and at zero gradients its derivative is finite. An infinite gradient or NaN makes all of them NaN: they
    have no direction.

    Raises:
        ValueError: if `max_norm` is not a positive finite number.
    """
    longest = check_positive(max_norm, "max_norm")

    def init(params: Any) -> optax.EmptyState:
        return optax.EmptyState()

    def update(gradients: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        entries = [part for leaf in jax.tree.leaves(gradients) if jnp.size(leaf) for part in _real_parts(leaf)]
        if not entries:
            return gradients, state
        wide = functools.reduce(np.promote_types, [each.dtype for each in entries])
        entries = [each.astype(wide) for each in entries]
        # Relative to the largest entry no square overflows. That unit cancels, so it needs no derivative. Its inverse,
        # by which XLA multiplies, is a normal number too.
        largest = jnp.stack([jnp.abs(jax.lax.stop_gradient(each)).max() for each in entries]).max()
        least = float(jnp.finfo(wide).tiny)
        unit = jnp.where(jnp.isfinite(largest), jnp.clip(largest, least, 1 / least), math.nan)
        square = jnp.stack([((each / unit) ** 2).sum() for each in entries]).sum()
        too_long = ~(unit * jnp.sqrt(jax.lax.stop_gradient(square)) <= longest)  # what is not finite is too long
        # The branch that is not taken must have a finite derivative too, or 0 · ∞ = NaN.
        factor = jnp.where(too_long, longest, 1.0) / jnp.sqrt(jnp.where(too_long, square, 1.0))

        def shortened(leaf: jax.Array) -> jax.Array:
            scaled = [each.astype(wide) / unit * factor for each in _real_parts(leaf)]
            short = jax.lax.complex(*scaled) if len(scaled) == 2 else scaled[0]
            return jnp.where(too_long, short.astype(leaf.dtype), leaf)

        return jax.tree.map(shortened, gradients), state

    return Optimiser(init, update)


def chain(*optimisers: Optimiser) -> Optimiser:
    """One optimiser after another, `optax.chain`: each takes the updates of the one before as its gradients.

    Raises:
        ValueError: if there is none.
        TypeError: if one of them is no pair (init, update).
    """
    require(len(optimisers) > 0, "optimisers", "one or more", optimisers)
    for each in optimisers:
        check_optimiser(each, "optimisers", FOREIGN)
    return optax.chain(*optimisers)


def _widened(gradient: jax.Array) -> jax.Array:
    """In float32, or the dtype it has if that is wider."""
    return gradient.astype(jnp.float32) if gradient.dtype.itemsize < 4 else gradient


def _real_parts(gradient: jax.Array) -> list[jax.Array]:
    """Real numbers of float32 at least; of a complex gradient its real and its imaginary parts."""
    wide = _widened(gradient)
    return [wide.real, wide.imag] if jnp.iscomplexobj(wide) else [wide]


def _square(gradient: jax.Array) -> jax.Array:
    """|g|², real also for a complex gradient."""
    return gradient.real**2 + gradient.imag**2 if jnp.iscomplexobj(gradient) else gradient * gradient


def _times(factor: Any, gradient: jax.Array) -> jax.Array:
    """`factor · gradient` in the dtype of the gradient, computed in the wider of both."""
    wide = _widened(gradient)
    dtype = wide.dtype if isinstance(factor, Real) else np.promote_types(wide.dtype, _widened(factor).dtype)
    return (jnp.asarray(factor, dtype) * wide.astype(dtype)).astype(gradient.dtype)


def _trace(momentum: float, nesterov: bool) -> Optimiser:
    """`optax.trace`, whose state is the last velocity alone, as in torch_backend."""

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        velocity = jax.tree.map(lambda g, v: g + momentum * v, gradients, state)
        if not nesterov:
            return velocity, velocity
        return jax.tree.map(lambda g, v: g + momentum * v, gradients, velocity), velocity

    return Optimiser(init, update)


class AdamState(NamedTuple):
    """Steps done, an integer or an integer array, and the two moments, pytrees like the parameters."""

    steps: int | jax.Array
    mu: Any
    nu: Any


def _scale_by_adam(b1: float, b2: float, eps: float, eps_root: float) -> Optimiser:
    """`optax.scale_by_adam`, which raises β to an array of the step.

    In float32 that loses the last digits of 1 − β₂, and with it the agreement with torch; and JAX refuses it under
    strict type promotion.
    """

    def init(params: Any) -> AdamState:
        zeros = jax.tree.map(lambda value: jnp.zeros_like(_widened(value)), params)
        return AdamState(0, zeros, jax.tree.map(lambda each: jnp.zeros_like(each.real), zeros))

    def update(gradients: Any, state: AdamState, params: Any = None) -> tuple[Any, AdamState]:
        count = state.steps + 1
        wide = jax.tree.map(_widened, gradients)
        mu = jax.tree.map(lambda g, m: (1 - b1) * g + b1 * m, wide, state.mu)
        nu = jax.tree.map(lambda g, v: (1 - b2) * _square(g) + b2 * v, wide, state.nu)

        def scaled(gradient: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            root = jnp.sqrt(v / _one_minus_power(b2, count, v.dtype) + eps_root)
            return _times(1 / (_one_minus_power(b1, count, v.dtype) * (root + eps)), m).astype(gradient.dtype)

        return jax.tree.map(scaled, gradients, mu, nu), AdamState(count, mu, nu)

    return Optimiser(init, update)


def _one_minus_power(decay: float, count: Any, dtype: Any) -> Any:
    """`1 − decay ** count`, exact to rounding also for a count that is traced."""
    if isinstance(count, int):
        return 1 - decay**count
    return -jnp.expm1(count.astype(dtype) * (math.log(decay) if decay else -math.inf))


def _scale_by_learning_rate(learning_rate: LearningRate) -> Optimiser:
    """Down the gradient; its state is the number of steps done.

    It starts as a Python integer, so that in a loop that is written out every rate of a step is known.
    """

    def init(params: Any) -> int:
        return 0

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        rate = rate_at_step(learning_rate, state)
        if isinstance(rate, Mapping):
            leaves = named_leaves(gradients)
            rates = rates_by_name(rate, {name: leaf.shape for name, leaf in leaves.items()}, "learning_rate")
            updates = [_times(-rates[name], leaf) for name, leaf in leaves.items()]
            return jax.tree.unflatten(jax.tree.structure(gradients), updates), state + 1
        for leaf in jax.tree.leaves(gradients):
            check_rate(rate, shape=jnp.shape(leaf))
        return jax.tree.map(lambda leaf: _times(-rate, leaf), gradients), state + 1

    return Optimiser(init, update)
