"""The networks of the core's layer tables as MetaModules, and ResNet-18."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
from flax import nnx

from jax_backend.modules import (
    Flatten,
    MaxPool2d,
    MetaBatchNorm2d,
    MetaConv2d,
    MetaLinear,
    MetaModule,
    MetaSequential,
    leaky_relu,
)
from metabridge.configs import ModelConfig
from metabridge.networks import layers as tables
from metabridge.networks.tables import network_layers

__all__ = ["ResNet18", "build_model"]

Layer = Callable[..., jax.Array]


def build_model(config: ModelConfig | tables.Chain, rngs: nnx.Rngs | None = None) -> MetaModule:
    """The network that `config`, or a table of layers, describes, with random initial parameters from `rngs` (seed 0).

    It maps `(batch, features)`, or images `(batch, H, W, channels)`, to `(batch, outputs)`. Its layers and their names
    are those of the table in `metabridge.networks.tables`.
    """
    table = config if isinstance(config, tables.Chain) else network_layers(config)
    return MetaSequential(_layers(table, nnx.Rngs(0) if rngs is None else rngs))


def _layers(chain: tables.Chain, rngs: nnx.Rngs) -> dict[str, Layer]:
    return {name: _layer(layer, rngs) for name, layer in chain.layers}


def _layer(layer: tables.Layer, rngs: nnx.Rngs) -> Layer:
    match layer:
        case tables.Chain():
            return MetaSequential(_layers(layer, rngs))
        case tables.Residual(main, shortcut):
            return _Residual(_layers(main, rngs), MetaSequential(_layers(shortcut, rngs)))
        case tables.Linear(inputs, outputs):
            return MetaLinear(inputs, outputs, rngs=rngs)
        case tables.Convolution(inputs, outputs, kernel, bias):
            return MetaConv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias, rngs=rngs)
        case tables.BatchNorm(channels, running):
            return MetaBatchNorm2d(channels, track_running_stats=running)
        case tables.ReLU():
            return nnx.relu
        case tables.LeakyReLU(slope):
            return _LeakyReLU(slope)
        case tables.MaxPool(size):
            return MaxPool2d(size)
        case tables.Flatten():
            return Flatten()
        case tables.Mean():
            return _mean
    raise TypeError(f"jax_backend.models cannot build {layer!r}; give this kind of layer a case.")


class _Residual(MetaModule):
    """`main(x) + shortcut(x)`, where the layers of the main path go by their own names."""

    def __init__(self, main: Mapping[str, Layer], shortcut: MetaSequential) -> None:
        self.main_names = tuple(main)
        for name, layer in main.items():
            setattr(self, name, layer)
        self.shortcut = shortcut

    def __call__(self, input: jax.Array) -> jax.Array:
        """Map `(batch, H, W, inputs)` to `(batch, H, W, outputs)`."""
        values = input
        for name in self.main_names:
            values = getattr(self, name)(values)
        return values + self.shortcut(input)


@dataclass(frozen=True)
class _LeakyReLU:
    """`leaky_relu` of one slope. Equal slopes are equal, so that Flax takes two such models for one structure."""

    slope: float

    def __call__(self, input: jax.Array) -> jax.Array:
        return leaky_relu(input, self.slope)


def _mean(input: jax.Array) -> jax.Array:
    """The average over all positions: `(batch, H, W, channels)` to `(batch, channels)`."""
    return input.mean((1, 2))


class ResNet18(MetaModule):
    """The 18-layer residual network of He et al. 2016: `(batch, H, W, 3)` to `(batch, num_classes)`.

    Names, architecture and initial distribution are those of `torchvision.models.resnet18`, whose weights
    `jax_backend.weights.load_neutral` therefore takes as they are. In torch, use torchvision's own.

    Args:
        num_classes: number of outputs.
        rngs: where the initial parameters come from.
    """

    def __init__(self, num_classes: int = 1000, *, rngs: nnx.Rngs) -> None:
        self.conv1 = MetaConv2d(3, 64, 7, stride=2, padding=3, bias=False, rngs=rngs)
        self.bn1 = MetaBatchNorm2d(64)
        self.maxpool = MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, 1, rngs)
        self.layer2 = _stage(64, 128, 2, rngs)
        self.layer3 = _stage(128, 256, 2, rngs)
        self.layer4 = _stage(256, 512, 2, rngs)
        self.fc = MetaLinear(512, num_classes, rngs=rngs)
        for _, module in nnx.iter_modules(self):
            if isinstance(module, MetaConv2d):
                module.weight = _he_normal(module.weight.shape, rngs)

    def __call__(self, input: jax.Array) -> jax.Array:
        """Map `(batch, H, W, 3)` to `(batch, num_classes)`."""
        values = self.maxpool(nnx.relu(self.bn1(self.conv1(input))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            values = stage(values)
        return self.fc(values.mean((1, 2)))


class _BasicBlock(MetaModule):
    """Two 3×3 convolutions beside a shortcut, which a 1×1 convolution fits where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> None:
        self.conv1 = MetaConv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False, rngs=rngs)
        self.bn1 = MetaBatchNorm2d(outputs)
        self.conv2 = MetaConv2d(outputs, outputs, 3, padding=1, bias=False, rngs=rngs)
        self.bn2 = MetaBatchNorm2d(outputs)
        self.has_downsample = stride != 1 or inputs != outputs
        if self.has_downsample:
            self.downsample = MetaSequential(
                MetaConv2d(inputs, outputs, 1, stride=stride, bias=False, rngs=rngs), MetaBatchNorm2d(outputs)
            )

    def __call__(self, input: jax.Array) -> jax.Array:
        """Map `(batch, H, W, inputs)` to `(batch, H / stride, W / stride, outputs)`, rounded up."""
        values = nnx.relu(self.bn1(self.conv1(input)))
        values = self.bn2(self.conv2(values))
        return nnx.relu(values + (self.downsample(input) if self.has_downsample else input))


def _stage(inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> MetaSequential:
    return MetaSequential(_BasicBlock(inputs, outputs, stride, rngs), _BasicBlock(outputs, outputs, 1, rngs))


def _he_normal(shape: tuple[int, ...], rngs: nnx.Rngs) -> nnx.Param:
    """Normal with variance 2 / fan_out, the initial distribution of torchvision's residual networks."""
    height, width, _, outputs = shape
    return nnx.Param(jax.random.normal(rngs.params(), shape) * math.sqrt(2 / (height * width * outputs)))
