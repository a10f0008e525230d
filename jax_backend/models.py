"""The networks of the literature as MetaModules, built from a model config."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

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
from metabridge.networks.parameters import flattened_shape

__all__ = ["MLP", "Conv4", "ResNet12", "ResNet18", "build_model"]

_SLOPE = 0.1


def build_model(config: ModelConfig, rngs: nnx.Rngs | None = None) -> MetaModule:
    """The network `config` describes, with random initial parameters from `rngs` (default: seed 0)."""
    network = {"mlp": MLP, "conv4": Conv4, "resnet12": ResNet12}[config.name]
    return network(config, nnx.Rngs(0) if rngs is None else rngs)


class MLP(MetaModule):
    """Linear layers with ReLU between, then a linear head: `(batch, inputs)` to `(batch, outputs)`.

    With two hidden layers of 40, the sinusoid network of Finn et al. 2017 (there with another initialisation).
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        widths = (*config.input_shape, *config.hidden)
        layers = [
            MetaSequential({"linear": MetaLinear(inputs, outputs, rngs=rngs), "relu": nnx.relu})
            for inputs, outputs in pairwise(widths)
        ]
        self.features = MetaSequential(_numbered(layers))
        self.head = MetaLinear(widths[-1], config.outputs, rngs=rngs)

    def __call__(self, inputs: jax.Array, params: Mapping[str, jax.Array] | None = None) -> jax.Array:
        """Map `(batch, inputs)` to `(batch, outputs)`."""
        features = self.features(inputs, params=self.get_subdict(params, "features"))
        return self.head(features, params=self.get_subdict(params, "head"))


class Conv4(MetaModule):
    """Four blocks of 3×3 convolution, batch normalisation, ReLU and 2×2 max-pooling, then a linear head.

    `(batch, H, W, channels)` to `(batch, outputs)`; the network of Vinyals et al. 2016 and Finn et al. 2017, who
    pool by strides of 2 on Omniglot. Batch normalisation uses the statistics of the batch at hand, always.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        channels = (config.input_shape[-1], *config.hidden)
        blocks = [_conv_block(inputs, outputs, rngs) for inputs, outputs in pairwise(channels)]
        self.features = MetaSequential(_numbered(blocks))
        self.flatten = Flatten()
        self.head = MetaLinear(math.prod(flattened_shape(config)), config.outputs, rngs=rngs)

    def __call__(self, inputs: jax.Array, params: Mapping[str, jax.Array] | None = None) -> jax.Array:
        """Map `(batch, H, W, channels)` to `(batch, outputs)`."""
        features = self.features(inputs, params=self.get_subdict(params, "features"))
        return self.head(self.flatten(features), params=self.get_subdict(params, "head"))


def _conv_block(inputs: int, outputs: int, rngs: nnx.Rngs) -> MetaSequential:
    return MetaSequential(
        {
            "conv": MetaConv2d(inputs, outputs, 3, padding=1, rngs=rngs),
            "norm": MetaBatchNorm2d(outputs, track_running_stats=False),
            "relu": nnx.relu,
            "pool": MaxPool2d(2),
        }
    )


class ResNet12(MetaModule):
    """Four residual blocks, the average over all positions, then a linear head: `(batch, H, W, channels)` to outputs.

    The backbone of Oreshkin et al. 2018 (TADAM) in the form of Lee et al. 2019 (MetaOptNet): a block is three 3×3
    convolutions, a shortcut by a 1×1 convolution, leaky ReLU of slope 0.1 and 2×2 max-pooling, with batch
    normalisation after every convolution and no biases. Lee et al. flatten the last block's features for their
    solvers; here they are averaged, as in TADAM, so that a linear head stays small at any image size. There is no
    DropBlock: it draws at random in every pass, which two frameworks cannot do alike.

    Batch normalisation keeps running statistics. With `params` in training mode it uses those of the batch and
    leaves the running ones alone; in evaluation mode it uses the running ones.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        channels = (config.input_shape[-1], *config.hidden)
        self.features = MetaSequential(_numbered([_ResNet12Block(*pair, rngs) for pair in pairwise(channels)]))
        self.head = MetaLinear(channels[-1], config.outputs, rngs=rngs)

    def __call__(self, inputs: jax.Array, params: Mapping[str, jax.Array] | None = None) -> jax.Array:
        """Map `(batch, H, W, channels)` to `(batch, outputs)`."""
        features = self.features(inputs, params=self.get_subdict(params, "features"))
        return self.head(features.mean((1, 2)), params=self.get_subdict(params, "head"))


class _ResNet12Block(MetaModule):
    """Three convolutions beside a shortcut, then 2×2 max-pooling."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs) -> None:
        for number, depth in enumerate((inputs, outputs, outputs), start=1):
            setattr(self, f"conv{number}", MetaConv2d(depth, outputs, 3, padding=1, bias=False, rngs=rngs))
            setattr(self, f"norm{number}", MetaBatchNorm2d(outputs))
        self.shortcut = MetaSequential(
            {"conv": MetaConv2d(inputs, outputs, 1, bias=False, rngs=rngs), "norm": MetaBatchNorm2d(outputs)}
        )
        self.pool = MaxPool2d(2)

    def __call__(self, input: jax.Array, params: Mapping[str, jax.Array] | None = None) -> jax.Array:
        """Map `(batch, H, W, inputs)` to `(batch, H // 2, W // 2, outputs)`."""

        def normalised_convolution(number: int, values: jax.Array) -> jax.Array:
            for name in (f"conv{number}", f"norm{number}"):
                values = getattr(self, name)(values, params=self.get_subdict(params, name))
            return values

        values = leaky_relu(normalised_convolution(1, input), _SLOPE)
        values = leaky_relu(normalised_convolution(2, values), _SLOPE)
        values = normalised_convolution(3, values) + self.shortcut(input, params=self.get_subdict(params, "shortcut"))
        return self.pool(leaky_relu(values, _SLOPE))


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

    def __call__(self, input: jax.Array, params: Mapping[str, jax.Array] | None = None) -> jax.Array:
        """Map `(batch, H, W, 3)` to `(batch, num_classes)`."""

        def run(name: str, values: jax.Array) -> jax.Array:
            return getattr(self, name)(values, params=self.get_subdict(params, name))

        values = self.maxpool(nnx.relu(run("bn1", run("conv1", input))))
        for name in ("layer1", "layer2", "layer3", "layer4"):
            values = run(name, values)
        return run("fc", values.mean((1, 2)))


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

    def __call__(self, input: jax.Array, params: Mapping[str, jax.Array] | None = None) -> jax.Array:
        """Map `(batch, H, W, inputs)` to `(batch, H / stride, W / stride, outputs)`, rounded up."""

        def run(name: str, values: jax.Array) -> jax.Array:
            return getattr(self, name)(values, params=self.get_subdict(params, name))

        values = nnx.relu(run("bn1", run("conv1", input)))
        values = run("bn2", run("conv2", values))
        return nnx.relu(values + (run("downsample", input) if self.has_downsample else input))


def _stage(inputs: int, outputs: int, stride: int, rngs: nnx.Rngs) -> MetaSequential:
    return MetaSequential(_BasicBlock(inputs, outputs, stride, rngs), _BasicBlock(outputs, outputs, 1, rngs))


def _he_normal(shape: tuple[int, ...], rngs: nnx.Rngs) -> nnx.Param:
    """Normal with variance 2 / fan_out, the initial distribution of torchvision's residual networks."""
    height, width, _, outputs = shape
    return nnx.Param(jax.random.normal(rngs.params(), shape) * math.sqrt(2 / (height * width * outputs)))


def _numbered(layers: Sequence[MetaModule]) -> dict[str, Callable[..., jax.Array]]:
    return {f"layer{number}": layer for number, layer in enumerate(layers, start=1)}
