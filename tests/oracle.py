"""An independent reference in NumPy: both networks, their gradients and MAML's meta-gradient, by hand.

Every layer returns its output and a function from the output's gradient to the gradients of its input and its
parameters, written out from the calculus. All of it also works on complex numbers (branches look at the real
part), so the derivative of any result along a direction `v` is `imag(f(θ + ihv)) / h`, exact to rounding for
h = 1e-30: complex-step differentiation (Squire & Trapp 1998). MAML's second derivatives are taken that way.

Slow and plain on purpose. Neutral parameters, images NCHW inside.
"""

import fnmatch
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from metabridge.configs import MAMLConfig, ModelConfig
from metabridge.networks.parameters import Parameters

__all__ = [
    "batch_norm",
    "complex_step_gradient",
    "conv2d",
    "cross_entropy",
    "linear_regression_maml",
    "loss_and_gradient",
    "maml",
    "max_pool",
    "mean_over_tasks",
    "outputs",
]

Array = Any
Pullback = Callable[[Array], tuple[Array, Parameters]]
Layer = Callable[[Array, Parameters], tuple[Array, Pullback]]
Loss = Callable[[Array, Array], tuple[Array, Array]]
Batch = dict[str, tuple[Array, Array]]
Task = dict[str, tuple[Array, Array]]

STEP = 1e-30


def linear(inputs: Array, params: Parameters) -> tuple[Array, Pullback]:
    """`x Wᵀ + b`."""

    def pull(upstream: Array) -> tuple[Array, Parameters]:
        return upstream @ params["weight"], {"weight": upstream.T @ inputs, "bias": upstream.sum(0)}

    return inputs @ params["weight"].T + params["bias"], pull


def relu(inputs: Array, _: Parameters) -> tuple[Array, Pullback]:
    """`max(x, 0)`, with derivative 0 at 0."""
    positive = inputs.real > 0
    return np.where(positive, inputs, 0), lambda upstream: (np.where(positive, upstream, 0), {})


def flatten(inputs: Array, _: Parameters) -> tuple[Array, Pullback]:
    """`(n, C, H, W)` to `(n, C·H·W)`."""
    return inputs.reshape(len(inputs), -1), lambda upstream: (upstream.reshape(inputs.shape), {})


def conv2d(inputs: Array, params: Parameters, padding: int = 1) -> tuple[Array, Pullback]:
    """Stride 1; one output position after the other."""
    weight, bias = params["weight"], params["bias"]
    kernel = weight.shape[2:]
    padded = np.pad(inputs, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    height, width = (padded.shape[2 + axis] - kernel[axis] + 1 for axis in (0, 1))
    positions = [(i, j) for i in range(height) for j in range(width)]

    def window(i: int, j: int) -> tuple[slice, slice, slice, slice]:
        return slice(None), slice(None), slice(i, i + kernel[0]), slice(j, j + kernel[1])

    output = np.empty((len(inputs), len(weight), height, width), np.result_type(inputs, weight))
    for i, j in positions:
        output[:, :, i, j] = np.einsum("ncij,ocij->no", padded[window(i, j)], weight) + bias

    def pull(upstream: Array) -> tuple[Array, Parameters]:
        kind = np.result_type(upstream, weight, inputs)
        to_padded, to_weight = np.zeros(padded.shape, kind), np.zeros(weight.shape, kind)
        for i, j in positions:
            to_padded[window(i, j)] += np.einsum("no,ocij->ncij", upstream[:, :, i, j], weight)
            to_weight += np.einsum("no,ncij->ocij", upstream[:, :, i, j], padded[window(i, j)])
        inner = slice(padding, -padding or None)
        return to_padded[:, :, inner, inner], {"weight": to_weight, "bias": upstream.sum((0, 2, 3))}

    return output, pull


def batch_norm(inputs: Array, params: Parameters, eps: float = 1e-5) -> tuple[Array, Pullback]:
    """Over batch, height and width, by the biased variance of this batch."""
    axes = (0, 2, 3)
    weight, bias = params["weight"][:, None, None], params["bias"][:, None, None]
    centred = inputs - inputs.mean(axes, keepdims=True)
    scale = ((centred**2).mean(axes, keepdims=True) + eps) ** -0.5
    normalised = centred * scale

    def pull(upstream: Array) -> tuple[Array, Parameters]:
        gradients = {"weight": (upstream * normalised).sum(axes), "bias": upstream.sum(axes)}
        scaled = upstream * weight
        mean = scaled.mean(axes, keepdims=True)
        along = (scaled * normalised).mean(axes, keepdims=True)
        return scale * (scaled - mean - normalised * along), gradients

    return normalised * weight + bias, pull


def max_pool(inputs: Array, _: Parameters, size: int = 2) -> tuple[Array, Pullback]:
    """Largest of every `size` × `size` window; of equals the first in row-major order gets the gradient."""
    count, channels, height, width = inputs.shape
    rows, columns = height // size, width // size
    cut = inputs[:, :, : rows * size, : columns * size].reshape(count, channels, rows, size, columns, size)
    windows = cut.transpose(0, 1, 2, 4, 3, 5).reshape(count, channels, rows, columns, size * size)
    chosen = windows.real.argmax(-1)[..., None]  # argmax returns the first of equals

    def pull(upstream: Array) -> tuple[Array, Parameters]:
        spread = np.zeros(windows.shape, upstream.dtype)
        np.put_along_axis(spread, chosen, upstream[..., None], -1)
        spread = spread.reshape(count, channels, rows, columns, size, size).transpose(0, 1, 2, 4, 3, 5)
        gradient = np.zeros(inputs.shape, upstream.dtype)
        gradient[:, :, : rows * size, : columns * size] = spread.reshape(count, channels, rows * size, columns * size)
        return gradient, {}

    return np.take_along_axis(windows, chosen, -1)[..., 0], pull


def mean_squared_error(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """The loss and its gradient."""
    difference = outputs - targets
    return (difference**2).mean(), 2 * difference / difference.size


def cross_entropy(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """The loss and its gradient."""
    exponentials = np.exp(outputs - outputs.real.max(-1, keepdims=True))
    probabilities = exponentials / exponentials.sum(-1, keepdims=True)
    rows = np.arange(len(targets))
    indicator = np.zeros(outputs.shape)
    indicator[rows, targets] = 1
    return -np.log(probabilities[rows, targets]).mean(), (probabilities - indicator) / len(targets)


def layers(model: ModelConfig) -> Iterator[tuple[str, Layer]]:
    """Name and operation of every layer, in order."""
    for number in range(1, len(model.hidden) + 1):
        block = f"features.layer{number}"
        if model.name == "mlp":
            yield from [(f"{block}.linear", linear), (f"{block}.relu", relu)]
        else:
            yield from [(f"{block}.conv", conv2d), (f"{block}.norm", batch_norm)]
            yield from [(f"{block}.relu", relu), (f"{block}.pool", max_pool)]
    if model.name == "conv4":
        yield "flatten", flatten
    yield "head", linear


def forward(model: ModelConfig, params: Parameters, inputs: Array) -> tuple[Array, list[tuple[str, Pullback]]]:
    """Outputs of the network, and what its backward pass needs."""
    values, tape = np.asarray(inputs), []
    if model.name == "conv4":
        values = np.moveaxis(values, -1, 1)
    for name, layer in layers(model):
        own = {kind: params[f"{name}.{kind}"] for kind in ("weight", "bias") if f"{name}.{kind}" in params}
        values, pull = layer(values, own)
        tape.append((name, pull))
    return values, tape


def outputs(model: ModelConfig, params: Parameters, inputs: Array) -> Array:
    """Outputs `(n, outputs)` of the network for the core's inputs (images NHWC)."""
    return forward(model, params, inputs)[0]


def loss_and_gradient(
    model: ModelConfig, loss: Loss, params: Parameters, inputs: Array, targets: Array
) -> tuple[Array, Parameters]:
    """The loss and its gradient by backpropagation."""
    values, tape = forward(model, params, inputs)
    value, upstream = loss(values, targets)
    gradients = {}
    for name, pull in reversed(tape):
        upstream, own = pull(upstream)
        gradients |= {f"{name}.{kind}": gradient for kind, gradient in own.items()}
    return value, {name: gradients[name] for name in params}


def maml(
    model: ModelConfig, algorithm: MAMLConfig, loss: Loss, params: Parameters, batch: Batch
) -> tuple[float, Parameters]:
    """MAML's meta-loss of a meta-batch (mean over tasks) and its meta-gradient."""
    return mean_over_tasks(lambda params, task: _task(model, algorithm, loss, params, task), params, batch)


def mean_over_tasks(
    function: Callable[[Parameters, Task], tuple[float, Parameters]], params: Parameters, batch: Batch
) -> tuple[float, Parameters]:
    """The mean of a value and a gradient over the tasks of a meta-batch, in float64."""
    params = {name: array.astype(np.float64) for name, array in params.items()}
    count = len(batch["train"][0])
    tasks = [{name: (inputs[i], targets[i]) for name, (inputs, targets) in batch.items()} for i in range(count)]
    results = [function(params, task) for task in tasks]
    total = {name: sum(gradient[name] for _, gradient in results) / count for name in params}
    return sum(value for value, _ in results) / count, total


def complex_step_gradient(function: Callable[[Parameters], Array], params: Parameters) -> tuple[float, Parameters]:
    """A real function of parameters and its gradient, entry by entry: `∂f/∂θ_i = imag(f(θ + ih e_i)) / h`."""
    gradient = {name: np.zeros(array.shape) for name, array in params.items()}
    for name, array in params.items():
        for entry in np.ndindex(array.shape):
            moved = array.astype(complex)
            moved[entry] += 1j * STEP
            gradient[name][entry] = function({**params, name: moved}).imag / STEP
    return float(function(params)), gradient


def _task(
    model: ModelConfig, algorithm: MAMLConfig, loss: Loss, params: Parameters, task: Batch
) -> tuple[float, Parameters]:
    """One task: forward through the inner loop, then back through it with one Hessian-vector product a step.

    With θ' = θ − α ∘ ∇L(θ), where α is 0 for what does not adapt, a gradient g' with respect to θ' is
    g' − ∇²L(θ) (α ∘ g') with respect to θ, and −∇L(θ) ∘ g' with respect to α.
    """
    network = {name: value for name, value in params.items() if not name.startswith("rates.")}
    rates = {
        name: params.get(f"rates.{name}", algorithm.inner_lr)
        * (algorithm.names is None or fnmatch.fnmatchcase(name, algorithm.names))
        for name in network
    }

    def support_gradient(current: Parameters) -> Parameters:
        return loss_and_gradient(model, loss, current, *task["train"])[1]

    visited, slopes = [network], []
    for _ in range(algorithm.inner_steps):
        slopes.append(support_gradient(visited[-1]))
        visited.append({name: value - rates[name] * slopes[-1][name] for name, value in visited[-1].items()})
    value, gradient = loss_and_gradient(model, loss, visited[-1], *task["test"])
    of_rates = dict.fromkeys(network, 0.0)
    for current, slope in zip(reversed(visited[:-1]), reversed(slopes), strict=True):
        of_rates = {name: each - slope[name] * gradient[name] for name, each in of_rates.items()}
        if not algorithm.first_order:
            shifted = support_gradient(
                add(current, {name: rates[name] * gradient[name] for name in network}, 1j * STEP)
            )
            gradient = add(gradient, {name: each.imag / STEP for name, each in shifted.items()}, -1.0)
    learned = {f"rates.{name}": each for name, each in of_rates.items() if f"rates.{name}" in params}
    return value, {**gradient, **learned}


def add(params: Parameters, direction: Parameters, factor: complex) -> Parameters:
    """`params + factor · direction`, name by name."""
    return {name: array + factor * direction[name] for name, array in params.items()}


def linear_regression_maml(algorithm: MAMLConfig, weight: Array, task: Batch) -> tuple[float, Array]:
    """Meta-objective and meta-gradient of `y = x w` under mean squared error on one task, in closed form.

    A step of gradient descent is affine, w' = (I − (2α/n) XᵀX) w + (2α/n) Xᵀy, so its Jacobian is that matrix.
    """
    (inputs, targets), (query, query_targets) = task["train"], task["test"]
    rate = 2 * algorithm.inner_lr / len(inputs)
    shrink = np.eye(len(weight)) - rate * inputs.T @ inputs
    for _ in range(algorithm.inner_steps):
        weight = shrink @ weight + rate * inputs.T @ targets
    residual = query @ weight - query_targets
    gradient = 2 / len(query) * query.T @ residual
    if not algorithm.first_order:
        gradient = np.linalg.matrix_power(shrink, algorithm.inner_steps) @ gradient
    return float((residual**2).mean()), gradient
