"""The networks of the literature as MetaModules, built from a model config."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

from metabridge.configs import ModelConfig
from metabridge.parameters import flattened_shape
from torch_backend.modules import MetaBatchNorm2d, MetaConv2d, MetaLinear, MetaModule, MetaSequential

__all__ = ["MLP", "Conv4", "build_model"]


def build_model(config: ModelConfig) -> MetaModule:
    """The network `config` describes, with PyTorch's own random initial parameters."""
    return {"mlp": MLP, "conv4": Conv4}[config.name](config)


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
        depth, height, width = flattened_shape(config)
        self.head = MetaLinear(depth * height * width, config.outputs)

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


def _numbered(layers: Sequence[MetaSequential]) -> "OrderedDict[str, nn.Module]":
    return OrderedDict((f"layer{number}", layer) for number, layer in enumerate(layers, start=1))
