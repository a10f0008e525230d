"""The networks of the literature as MetaModules, built from a model config."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import jax
from flax import nnx

from jax_backend.modules import MaxPool2d, MetaBatchNorm2d, MetaConv2d, MetaLinear, MetaModule, MetaSequential
from metabridge.configs import ModelConfig
from metabridge.parameters import flattened_shape

__all__ = ["MLP", "Conv4", "build_model"]


def build_model(config: ModelConfig, rngs: nnx.Rngs | None = None) -> MetaModule:
    """The network `config` describes, with random initial parameters from `rngs` (default: seed 0)."""
    return {"mlp": MLP, "conv4": Conv4}[config.name](config, nnx.Rngs(0) if rngs is None else rngs)


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
        depth, height, width = flattened_shape(config)
        self.head = MetaLinear(depth * height * width, config.outputs, rngs=rngs)

    def __call__(self, inputs: jax.Array, params: Mapping[str, jax.Array] | None = None) -> jax.Array:
        """Map `(batch, H, W, channels)` to `(batch, outputs)`."""
        features = self.features(inputs, params=self.get_subdict(params, "features"))
        return self.head(features.reshape(len(features), -1), params=self.get_subdict(params, "head"))


def _conv_block(inputs: int, outputs: int, rngs: nnx.Rngs) -> MetaSequential:
    return MetaSequential(
        {
            "conv": MetaConv2d(inputs, outputs, 3, padding=1, rngs=rngs),
            "norm": MetaBatchNorm2d(outputs, track_running_stats=False),
            "relu": nnx.relu,
            "pool": MaxPool2d(2),
        }
    )


def _numbered(layers: Sequence[MetaSequential]) -> dict[str, MetaSequential]:
    return {f"layer{number}": layer for number, layer in enumerate(layers, start=1)}
