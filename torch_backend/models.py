"""The networks of the core's layer tables as MetaModules."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

from metabridge.configs import ModelConfig
from metabridge.networks import layers as tables
from metabridge.networks.tables import network_layers
from torch_backend.modules import MetaBatchNorm2d, MetaConv2d, MetaLinear, MetaModule, MetaSequential

__all__ = ["build_model"]


def build_model(config: ModelConfig | tables.Chain) -> MetaModule:
    """The network that `config`, or a table of layers, describes, with PyTorch's own random initial parameters.

    It maps `(batch, features)`, or images `(batch, channels, H, W)`, to `(batch, outputs)`. Its layers and their names
    are those of the table in `metabridge.networks.tables`.
    """
    return MetaSequential(_modules(config if isinstance(config, tables.Chain) else network_layers(config)))


def _modules(chain: tables.Chain) -> "OrderedDict[str, nn.Module]":
    return OrderedDict((name, _module(layer)) for name, layer in chain.layers)


def _module(layer: tables.Layer) -> nn.Module:
    match layer:
        case tables.Chain():
            return MetaSequential(_modules(layer))
        case tables.Residual(main, shortcut):
            return _Residual(_modules(main), MetaSequential(_modules(shortcut)))
        case tables.Linear(inputs, outputs):
            return MetaLinear(inputs, outputs)
        case tables.Convolution(inputs, outputs, kernel, bias):
            return MetaConv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        case tables.BatchNorm(channels, running):
            return MetaBatchNorm2d(channels, track_running_stats=running)
        case tables.ReLU():
            return nn.ReLU()
        case tables.LeakyReLU(slope):
            return nn.LeakyReLU(slope)
        case tables.MaxPool(size):
            return nn.MaxPool2d(size)
        case tables.Flatten():
            return nn.Flatten()
        case tables.Mean():
            return _Mean()
    raise TypeError(f"torch_backend.models cannot build {layer!r}; give this kind of layer a case.")


class _Residual(MetaModule):
    """`main(x) + shortcut(x)`, where the layers of the main path go by their own names."""

    def __init__(self, main: Mapping[str, nn.Module], shortcut: nn.Module) -> None:
        super().__init__()
        self.main_names = tuple(main)
        for name, layer in main.items():
            self.add_module(name, layer)
        self.shortcut = shortcut

    def forward(self, input: Tensor) -> Tensor:
        """Map `(batch, inputs, H, W)` to `(batch, outputs, H, W)`."""
        values = input
        for name in self.main_names:
            values = self.get_submodule(name)(values)
        return values + self.shortcut(input)


class _Mean(nn.Module):
    """The average over all positions: `(batch, channels, H, W)` to `(batch, channels)`."""

    def forward(self, input: Tensor) -> Tensor:
        """Average."""
        return input.mean((2, 3))
