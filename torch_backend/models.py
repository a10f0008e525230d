"""The networks of the literature as MetaModules, built from a model config."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from metabridge.configs import ModelConfig
from metabridge.networks.parameters import flattened_shape
from torch_backend.modules import MetaBatchNorm2d, MetaConv2d, MetaLinear, MetaModule, MetaSequential

__all__ = ["MLP", "Conv4", "ResNet12", "build_model"]

_SLOPE = 0.1


def build_model(config: ModelConfig) -> MetaModule:
    """The network `config` describes, with PyTorch's own random initial parameters."""
    return {"mlp": MLP, "conv4": Conv4, "resnet12": ResNet12}[config.name](config)


class MLP(MetaModule):
    """Linear layers with ReLU between, then a linear head: `(batch, inputs)` to `(batch, outputs)`.

    With two hidden layers of 40, the sinusoid network of Finn et al. 2017 (there with another initialisation).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        widths = (*config.input_shape, *config.hidden)
        layers = [
            MetaSequential(OrderedDict(linear=MetaLinear(inputs, outputs), relu=nn.ReLU()))
            for inputs, outputs in pairwise(widths)
        ]
        self.features = MetaSequential(_numbered(layers))
        self.head = MetaLinear(widths[-1], config.outputs)

    def forward(self, inputs: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Map `(batch, inputs)` to `(batch, outputs)`."""
        features = self.features(inputs, params=self.get_subdict(params, "features"))
        return self.head(features, params=self.get_subdict(params, "head"))


class Conv4(MetaModule):
    """Four blocks of 3×3 convolution, batch normalisation, ReLU and 2×2 max-pooling, then a linear head.

    `(batch, channels, H, W)` to `(batch, outputs)`; the network of Vinyals et al. 2016 and Finn et al. 2017, who
    pool by strides of 2 on Omniglot. Batch normalisation uses the statistics of the batch at hand, always.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = (config.input_shape[-1], *config.hidden)
        blocks = [_conv_block(inputs, outputs) for inputs, outputs in pairwise(channels)]
        self.features = MetaSequential(_numbered(blocks))
        self.head = MetaLinear(math.prod(flattened_shape(config)), config.outputs)

    def forward(self, inputs: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Map `(batch, channels, H, W)` to `(batch, outputs)`."""
        features = self.features(inputs, params=self.get_subdict(params, "features"))
        return self.head(features.flatten(1), params=self.get_subdict(params, "head"))


def _conv_block(inputs: int, outputs: int) -> MetaSequential:
    return MetaSequential(
        OrderedDict(
            conv=MetaConv2d(inputs, outputs, 3, padding=1),
            norm=MetaBatchNorm2d(outputs, track_running_stats=False),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2),
        )
    )


class ResNet12(MetaModule):
    """Four residual blocks, the average over all positions, then a linear head: `(batch, channels, H, W)` to outputs.

    The backbone of Oreshkin et al. 2018 (TADAM) in the form of Lee et al. 2019 (MetaOptNet): a block is three 3×3
    convolutions, a shortcut by a 1×1 convolution, leaky ReLU of slope 0.1 and 2×2 max-pooling, with batch
    normalisation after every convolution and no biases. Lee et al. flatten the last block's features for their
    solvers; here they are averaged, as in TADAM, so that a linear head stays small at any image size. There is no
    DropBlock: it draws at random in every pass, which two frameworks cannot do alike.

    Batch normalisation keeps running statistics. With `params` in training mode it uses those of the batch and
    leaves the running ones alone; in evaluation mode it uses the running ones.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        channels = (config.input_shape[-1], *config.hidden)
        self.features = MetaSequential(_numbered([_ResNet12Block(*pair) for pair in pairwise(channels)]))
        self.head = MetaLinear(channels[-1], config.outputs)

    def forward(self, inputs: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Map `(batch, channels, H, W)` to `(batch, outputs)`."""
        features = self.features(inputs, params=self.get_subdict(params, "features"))
        return self.head(features.mean((2, 3)), params=self.get_subdict(params, "head"))


class _ResNet12Block(MetaModule):
    """Three convolutions beside a shortcut, then 2×2 max-pooling."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        for number, depth in enumerate((inputs, outputs, outputs), start=1):
            self.add_module(f"conv{number}", MetaConv2d(depth, outputs, 3, padding=1, bias=False))
            self.add_module(f"norm{number}", MetaBatchNorm2d(outputs))
        self.shortcut = MetaSequential(
            OrderedDict(conv=MetaConv2d(inputs, outputs, 1, bias=False), norm=MetaBatchNorm2d(outputs))
        )

    def forward(self, input: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Map `(batch, inputs, H, W)` to `(batch, outputs, H // 2, W // 2)`."""

        def normalised_convolution(number: int, values: Tensor) -> Tensor:
            for name in (f"conv{number}", f"norm{number}"):
                values = self.get_submodule(name)(values, params=self.get_subdict(params, name))
            return values

        values = F.leaky_relu(normalised_convolution(1, input), _SLOPE)
        values = F.leaky_relu(normalised_convolution(2, values), _SLOPE)
        values = normalised_convolution(3, values) + self.shortcut(input, params=self.get_subdict(params, "shortcut"))
        return F.max_pool2d(F.leaky_relu(values, _SLOPE), 2)


def _numbered(layers: Sequence[nn.Module]) -> "OrderedDict[str, nn.Module]":
    return OrderedDict((f"layer{number}", layer) for number, layer in enumerate(layers, start=1))
