"""Optimisers of the inner loop, through which gradients flow: pairs of pure functions, as in Optax.

An optimiser is `init(params)` → state and `update(gradients, state, params)` → (updates, state). Updates are *added*
to the parameters. Parameters, gradients and updates are trees of tensors of one structure: mappings, lists, tuples and
named tuples, often one flat mapping name → tensor. Both functions are differentiable, change nothing in place and keep
nothing between calls, so they work with `torch.autograd` (`create_graph=True`) as well as under `torch.func.grad` and
`torch.func.vmap`.

An update has the dtype of its gradient, whatever the dtype of a learning rate, and a state keeps its dtypes. Inside,
gradients of 16 bits are computed with in float32. The gradient of a complex parameter points uphill, as torch's does.

>>> import torch
>>> params = {"weight": torch.tensor([1.0, -2.0])}
>>> optimiser = chain(clip_by_global_norm(1.0), sgd(0.5))
>>> updates, state = optimiser.update({"weight": torch.tensor([3.0, 4.0])}, optimiser.init(params), params)
>>> updates
{'weight': tensor([-0.3000, -0.4000])}
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metabridge.adaptation.rates import (
    check_adam,
    check_optimiser,
    check_rate,
    check_sgd,
    rate_at_step,
    rates_by_name,
)
from metabridge.adaptation.trees import flatten, map_leaves, unflatten
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

StepSize = float | Tensor | Mapping[str, Tensor | float]

LearningRate = StepSize | Callable[[int], StepSize]
"""How far a step goes; everything that is a tensor can be learned.

- A number, a scalar tensor, or one that broadcasts to the shape of every parameter.
- A mapping name → number or tensor that broadcasts to the parameter's shape, for every adapted parameter and no other.
  Names inside a tree are joined by dots. A rate for every entry is Meta-SGD (Li, Zhou, Chen, Li 2017, arXiv 1707.09835,
  equation 2: their alpha).
- A function of the step (0, 1, …) that returns any of these. A rate for every name and step is the LSLR of MAML++
  (Antoniou, Edwards, Storkey 2019, arXiv 1810.09502, section 4: per-layer per-step learning rates).
"""

FOREIGN = ("optax", "jax_backend")
"""Packages whose optimisers compute with another framework's arrays."""


class Optimiser(NamedTuple):
    """A pair of pure functions; `optax.GradientTransformation` in torch.

    Attributes:
        init: parameters, to the state before the first step.
        update: (gradients, state, parameters) to (what to add to the parameters, next state).
    """

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]


def sgd(learning_rate: LearningRate, momentum: float = 0.0, nesterov: bool = False) -> Optimiser:
    """Gradient descent, with momentum if it is not 0: `torch.optim.SGD` without dampening and `optax.sgd`.

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
    return chain(_trace(float(momentum), nesterov), down) if momentum else down


def adam(
    learning_rate: LearningRate, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, eps_root: float = 1e-30
) -> Optimiser:
    """Adam (Kingma, Ba 2015, arXiv 1412.6980, algorithm 1): `torch.optim.Adam` and `optax.adam`.

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
    return chain(_scale_by_adam(*numbers), _scale_by_learning_rate(learning_rate))


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
    check_positive(max_norm, "max_norm")

    def init(params: Any) -> tuple[()]:
        return ()

    def update(gradients: Any, state: tuple[()], params: Any = None) -> tuple[Any, tuple[()]]:
        leaves = flatten(gradients).values()
        entries = [part for leaf in leaves if leaf.numel() for part in _real_parts(leaf)]
        if not entries:
            return gradients, state
        # Relative to the largest entry no square overflows. That unit cancels, so it needs no derivative. Its inverse
        # is a normal number too, as in jax_backend, where XLA multiplies by it.
        largest = torch.stack([each.detach().abs().amax() for each in entries]).amax()
        least = torch.finfo(largest.dtype).tiny
        unit = torch.where(torch.isfinite(largest), torch.clip(largest, least, 1 / least), math.nan)
        square = torch.stack([((each / unit) ** 2).sum() for each in entries]).sum()
        too_long = ~(unit * square.detach().sqrt() <= max_norm)  # what is not finite is too long
        # The branch that is not taken must have a finite derivative too, or 0 · ∞ = NaN.
        factor = torch.where(too_long, max_norm, torch.ones_like(square)) / torch.where(too_long, square, 1.0).sqrt()

        def shortened(leaf: Tensor) -> Tensor:
            short = _widened(leaf) / unit * factor
            return torch.where(too_long, short.to(leaf.dtype), leaf)

        return map_leaves(shortened, gradients), state

    return Optimiser(init, update)


def chain(*optimisers: Optimiser) -> Optimiser:
    """One optimiser after another: each takes the updates of the one before as its gradients.

    Raises:
        ValueError: if there is none.
        TypeError: if one of them is no pair (init, update).
    """
    require(len(optimisers) > 0, "optimisers", "one or more", optimisers)
    for each in optimisers:
        check_optimiser(each, "optimisers", FOREIGN)

    def init(params: Any) -> tuple[Any, ...]:
        return tuple(each.init(params) for each in optimisers)

    def update(gradients: Any, state: tuple[Any, ...], params: Any = None) -> tuple[Any, tuple[Any, ...]]:
        require(len(state) == len(optimisers), "state", f"that of {len(optimisers)} optimisers", state)
        updates, states = gradients, []
        for each, before in zip(optimisers, state, strict=True):
            updates, after = each.update(updates, before, params)
            states.append(after)
        return updates, tuple(states)

    return Optimiser(init, update)


def _widened(gradient: Tensor) -> Tensor:
    """In float32, or the dtype it has if that is wider."""
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32))


def _real_parts(gradient: Tensor) -> list[Tensor]:
    """Real numbers of float32 at least; of a complex gradient its real and its imaginary parts."""
    wide = _widened(gradient)
    return [wide.real, wide.imag] if wide.is_complex() else [wide]


def _square(gradient: Tensor) -> Tensor:
    """|g|², real also for a complex gradient."""
    return gradient.real**2 + gradient.imag**2 if gradient.is_complex() else gradient * gradient


def _times(factor: Tensor | float, gradient: Tensor) -> Tensor:
    """`factor · gradient` in the dtype of the gradient, computed in the wider of both."""
    return (factor * _widened(gradient)).to(gradient.dtype)


def _trace(momentum: float, nesterov: bool) -> Optimiser:
    """The velocity; its state is the last one."""

    def init(params: Any) -> Any:
        return map_leaves(torch.zeros_like, params)

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        velocity = map_leaves(lambda g, v: g + momentum * v, gradients, state)
        if not nesterov:
            return velocity, velocity
        return map_leaves(lambda g, v: g + momentum * v, gradients, velocity), velocity

    return Optimiser(init, update)


class AdamState(NamedTuple):
    """Steps done, an integer or an integer tensor, and the two moments, trees like the parameters."""

    steps: int | Tensor
    mu: Any
    nu: Any


def _scale_by_adam(b1: float, b2: float, eps: float, eps_root: float) -> Optimiser:
    def init(params: Any) -> AdamState:
        zeros = map_leaves(lambda value: torch.zeros_like(_widened(value)), params)
        return AdamState(0, zeros, map_leaves(lambda each: torch.zeros_like(each.real), zeros))

    def update(gradients: Any, state: AdamState, params: Any = None) -> tuple[Any, AdamState]:
        steps = state.steps + 1
        wide = map_leaves(_widened, gradients)
        mu = map_leaves(lambda g, m: (1 - b1) * g + b1 * m, wide, state.mu)
        nu = map_leaves(lambda g, v: (1 - b2) * _square(g) + b2 * v, wide, state.nu)
        bias1, bias2 = _one_minus_power(b1, steps), _one_minus_power(b2, steps)

        def scaled(gradient: Tensor, m: Tensor, v: Tensor) -> Tensor:
            return (m / bias1 / ((v / bias2 + eps_root).sqrt() + eps)).to(gradient.dtype)

        updates = map_leaves(scaled, gradients, mu, nu)
        return updates, AdamState(steps, mu, nu)

    return Optimiser(init, update)


def _one_minus_power(decay: float, steps: int | Tensor) -> float | Tensor:
    """`1 − decay ** steps`, in double precision also where the count is on a device."""
    return 1 - decay ** (steps.double() if isinstance(steps, Tensor) else steps)


def _scale_by_learning_rate(learning_rate: LearningRate) -> Optimiser:
    """Down the gradient; its state is the number of steps done."""

    def init(params: Any) -> int:
        return 0

    def update(gradients: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        rate = rate_at_step(learning_rate, state)
        if isinstance(rate, Mapping):
            leaves = flatten(gradients)
            rates = rates_by_name(rate, {name: tuple(leaf.shape) for name, leaf in leaves.items()}, "learning_rate")
            return unflatten(gradients, {name: _times(-rates[name], leaf) for name, leaf in leaves.items()}), state + 1
        for leaf in flatten(gradients).values():
            check_rate(rate, shape=tuple(leaf.shape))
        return map_leaves(lambda leaf: _times(-rate, leaf), gradients), state + 1

    return Optimiser(init, update)
