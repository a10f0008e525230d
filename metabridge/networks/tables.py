"""The networks by name: the layers of each, and the facts about it. A new network is one entry of `NETWORKS`."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from metabridge.networks.layers import (
    BatchNorm,
    Chain,
    Convolution,
    Flatten,
    Layer,
    LeakyReLU,
    Linear,
    MaxPool,
    Mean,
    ReLU,
    Residual,
    chain,
)

__all__ = ["NETWORKS", "Dimensions", "Network", "network_layers"]


class Dimensions(Protocol):
    """Name, input shape, outputs and widths of a network: `metabridge.configs.ModelConfig`."""

    @property
    def name(self) -> str:
        """A key of `NETWORKS`."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example: `(features,)`, or `(H, W, channels)`."""

    @property
    def outputs(self) -> int | None:
        """Number of outputs; `None` for an embedding, without a head."""

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers, or channels of the blocks."""


@dataclass(frozen=True)
class Network:
    """The layers of a network, and the facts about it.

    Attributes:
        layers: input shape, outputs and hidden widths → the table of its layers.
        takes_images: whether examples are `(H, W, channels)` images and not vectors.
        poolings: number of blocks, each halving the image; `None` for any number without pooling.
        widths: usual widths of the hidden layers, or channels of the blocks.
        meta_gradient: contract C7: the largest relative error between the backends' float64 meta-gradients.
    """

    layers: Callable[[tuple[int, ...], int | None, tuple[int, ...]], Chain]
    takes_images: bool
    poolings: int | None
    widths: tuple[int, ...]
    meta_gradient: float


def network_layers(model: Dimensions) -> Chain:
    """The table of a network's layers."""
    if isinstance(model, type) or not all(
        hasattr(model, name) for name in ("name", "input_shape", "outputs", "hidden")
    ):
        raise TypeError(f"`model` must be a ModelConfig, got {model!r}; pass for example ModelConfig('mlp').")
    return NETWORKS[model.name].layers(model.input_shape, model.outputs, model.hidden)


def _mlp(input_shape: tuple[int, ...], outputs: int | None, hidden: tuple[int, ...]) -> Chain:
    """Linear layers with ReLU between, then a linear head.

    With two hidden layers of 40, the sinusoid network of Finn et al. 2017 (there with another initialisation).
    """
    widths = (*input_shape, *hidden)
    blocks = {
        f"layer{number}": chain(linear=Linear(*sizes), relu=ReLU()) for number, sizes in enumerate(pairwise(widths), 1)
    }
    return chain(features=chain(**blocks), **_head(widths[-1], outputs))


def _conv4(input_shape: tuple[int, ...], outputs: int | None, hidden: tuple[int, ...]) -> Chain:
    """Four blocks of 3×3 convolution, batch normalisation, ReLU and 2×2 max-pooling, then a linear head.

    The network of Vinyals et al. 2016 and Finn et al. 2017, who pool by strides of 2 on Omniglot. Batch
    normalisation uses the statistics of the batch at hand, always.
    """
    height, width, colours = input_shape
    blocks = {
        f"layer{number}": chain(
            conv=Convolution(*channels), norm=BatchNorm(channels[1], running=False), relu=ReLU(), pool=MaxPool(2)
        )
        for number, channels in enumerate(pairwise((colours, *hidden)), 1)
    }
    features = hidden[-1] * (height // 16) * (width // 16)
    return chain(features=chain(**blocks), flatten=Flatten(features), **_head(features, outputs))


def _resnet12(input_shape: tuple[int, ...], outputs: int | None, hidden: tuple[int, ...]) -> Chain:
    """Four residual blocks, the average over all positions, then a linear head.

    The backbone of Oreshkin et al. 2018 (TADAM) in the form of Lee et al. 2019 (MetaOptNet): a block is three 3×3
    convolutions, a shortcut by a 1×1 convolution, leaky ReLU of slope 0.1 and 2×2 max-pooling, with batch
    normalisation after every convolution and no biases. Lee et al. flatten the last block's features for their
    solvers; here they are averaged, as in TADAM, so that a linear head stays small at any image size. There is no
    DropBlock: it draws at random in every pass, which two frameworks cannot do alike.

    Batch normalisation keeps running statistics. With `params` in training mode it uses those of the batch and
    leaves the running ones alone; in evaluation mode it uses the running ones.
    """
    features: dict[str, Layer] = {}
    for number, (inputs, channels) in enumerate(pairwise((input_shape[-1], *hidden)), 1):
        features[f"layer{number}"] = _resnet12_block(inputs, channels)
        features[f"relu{number}"] = LeakyReLU(0.1)
        features[f"pool{number}"] = MaxPool(2)
    return chain(features=chain(**features), mean=Mean(), **_head(hidden[-1], outputs))


def _resnet12_block(inputs: int, outputs: int) -> Residual:
    return Residual(
        main=chain(
            conv1=Convolution(inputs, outputs, bias=False),
            norm1=BatchNorm(outputs),
            relu1=LeakyReLU(0.1),
            conv2=Convolution(outputs, outputs, bias=False),
            norm2=BatchNorm(outputs),
            relu2=LeakyReLU(0.1),
            conv3=Convolution(outputs, outputs, bias=False),
            norm3=BatchNorm(outputs),
        ),
        shortcut=chain(conv=Convolution(inputs, outputs, kernel=1, bias=False), norm=BatchNorm(outputs)),
    )


def _head(inputs: int, outputs: int | None) -> dict[str, Layer]:
    """The linear head; an embedding has none."""
    return {} if outputs is None else {"head": Linear(inputs, outputs)}


NETWORKS = {
    "mlp": Network(_mlp, takes_images=False, poolings=None, widths=(40, 40), meta_gradient=1e-10),
    "conv4": Network(_conv4, takes_images=True, poolings=4, widths=(64, 64, 64, 64), meta_gradient=1e-9),
    "resnet12": Network(_resnet12, takes_images=True, poolings=4, widths=(64, 160, 320, 640), meta_gradient=1e-9),
}
"""Name → network: the one place where a name is looked up.

Untrained ResNet-12s differ by 1e-13 at most between the backends; rounding errors grow with training and width, so its
limit is that of Conv4.
"""
