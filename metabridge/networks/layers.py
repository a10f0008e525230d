"""Layers as records. Parameter names, shapes, first values and the modules of both backends follow from them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = [
    "BatchNorm",
    "Chain",
    "Convolution",
    "Flatten",
    "Free",
    "Layer",
    "LeakyReLU",
    "Like",
    "Linear",
    "MaxPool",
    "Mean",
    "Parameter",
    "ReLU",
    "Residual",
    "chain",
    "feature_count",
    "operations",
]


@dataclass(frozen=True)
class Parameter:
    """Shape of a parameter in PyTorch's axis order, and where its first values lie.

    They are uniform in `[low, high)`, or constant if the two are equal.
    """

    shape: tuple[int, ...]
    low: float
    high: float


class Layer:
    """One operation of a network."""

    def parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Name and parameter, in PyTorch's order; none by default."""
        return iter(())


@dataclass(frozen=True)
class Linear(Layer):
    """`x Wᵀ + b` over the last axis."""

    inputs: int
    outputs: int

    def parameters(self) -> Iterator[tuple[str, Parameter]]:
        """`weight` `(outputs, inputs)` and `bias`."""
        yield "weight", _kaiming((self.outputs, self.inputs), self.inputs)
        yield "bias", _kaiming((self.outputs,), self.inputs)


@dataclass(frozen=True)
class Convolution(Layer):
    """2-D convolution with a square kernel of odd size, padded so that the image keeps its size."""

    inputs: int
    outputs: int
    kernel: int = 3
    bias: bool = True

    def parameters(self) -> Iterator[tuple[str, Parameter]]:
        """`weight` `(outputs, inputs, kernel, kernel)` and, if there is one, `bias`."""
        fan_in = self.inputs * self.kernel**2
        yield "weight", _kaiming((self.outputs, self.inputs, self.kernel, self.kernel), fan_in)
        if self.bias:
            yield "bias", _kaiming((self.outputs,), fan_in)


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalisation of images per channel, with biased variance and eps 1e-5 (contract C8).

    Attributes:
        channels: of the image.
        running: whether to keep running statistics for evaluation; else the batch at hand decides, always.
    """

    channels: int
    running: bool = True

    def parameters(self) -> Iterator[tuple[str, Parameter]]:
        """`weight` at 1 and `bias` at 0."""
        yield "weight", Parameter((self.channels,), 1.0, 1.0)
        yield "bias", Parameter((self.channels,), 0.0, 0.0)


@dataclass(frozen=True)
class ReLU(Layer):
    """`max(x, 0)`, with derivative 0 at 0 (contract C8)."""


@dataclass(frozen=True)
class LeakyReLU(Layer):
    """`x` where it is positive and `slope · x` elsewhere; the derivative at 0 is the slope."""

    slope: float


@dataclass(frozen=True)
class MaxPool(Layer):
    """Largest value of each window of `size` × `size`; the first of equals takes the gradient (contract C8)."""

    size: int


@dataclass(frozen=True)
class Flatten(Layer):
    """All axes but the batch in one, channels first.

    Attributes:
        features: how many there are then, where a table says so.
    """

    features: int | None = None


@dataclass(frozen=True)
class Mean(Layer):
    """The average over all positions of an image, per channel."""


@dataclass(frozen=True)
class Free(Layer):
    """Parameters of an algorithm that belong to no operation, such as a temperature; every axis has one order only."""

    entries: tuple[tuple[str, Parameter], ...]

    def parameters(self) -> Iterator[tuple[str, Parameter]]:
        """The entries."""
        yield from self.entries


@dataclass(frozen=True)
class Like(Layer):
    """For every parameter of a layer another one of its name and shape, constant at first, such as a learning rate."""

    layer: Layer
    value: float

    def parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Those of the layer, all entries at the value."""
        for name, parameter in self.layer.parameters():
            yield name, Parameter(parameter.shape, self.value, self.value)


@dataclass(frozen=True)
class Chain(Layer):
    """Layers one after another; the parameters of `layer` are called `<name>.<parameter>`."""

    layers: tuple[tuple[str, Layer], ...]

    def parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Those of all layers, in order."""
        for name, layer in self.layers:
            yield from ((f"{name}.{inner}", parameter) for inner, parameter in layer.parameters())


@dataclass(frozen=True)
class Residual(Layer):
    """`main(x) + shortcut(x)`. The layers of `main` go by their own names, those of the shortcut below `shortcut.`."""

    main: Chain
    shortcut: Chain

    def parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Those of the main path, then those of the shortcut."""
        yield from self.main.parameters()
        yield from chain(shortcut=self.shortcut).parameters()


def chain(**layers: Layer) -> Chain:
    """The chain of these layers, in the order in which they are given.

    >>> [name for name, _ in chain(head=Linear(3, 2)).parameters()]
    ['head.weight', 'head.bias']
    """
    return Chain(tuple(layers.items()))


def operations(layer: Layer, name: str = "") -> Iterator[tuple[str, Layer]]:
    """Name and record of every single operation inside a layer, in order.

    >>> [name for name, _ in operations(chain(features=chain(linear=Linear(3, 2), relu=ReLU())))]
    ['features.linear', 'features.relu']
    """
    if isinstance(layer, Residual):
        yield from operations(layer.main, name)
        yield from operations(layer.shortcut, f"{name}.shortcut" if name else "shortcut")
    elif isinstance(layer, Chain):
        for inner, member in layer.layers:
            yield from operations(member, f"{name}.{inner}" if name else inner)
    else:
        yield name, layer


def feature_count(layer: Layer) -> int:
    """How many features, or channels, a layer yields, such as an embedding.

    >>> feature_count(chain(linear=Linear(3, 8), relu=ReLU()))
    8

    Raises:
        ValueError: if no layer of it says so.
    """
    count = _features(layer)
    if count is None:
        raise ValueError(f"`layer` must hold a layer that says how many features it yields, got {layer!r}.")
    return count


def _features(layer: Layer) -> int | None:
    match layer:
        case Linear() | Convolution():
            return layer.outputs
        case BatchNorm():
            return layer.channels
        case Flatten():
            return layer.features
        case Residual():
            return _features(layer.main)
        case Chain():
            return next((count for _, each in reversed(layer.layers) if (count := _features(each)) is not None), None)
    return None


def _kaiming(shape: tuple[int, ...], fan_in: int) -> Parameter:
    """Uniform in ±1/√fan_in, as PyTorch's layers start (Kaiming-uniform with a = √5)."""
    bound = 1.0 / math.sqrt(fan_in)
    return Parameter(shape, -bound, bound)
