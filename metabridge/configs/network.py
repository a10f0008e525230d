"""The record of a network."""

from dataclasses import dataclass

from metabridge.checks import check_choice, is_count, require
from metabridge.configs.record import Config
from metabridge.networks.tables import NETWORKS

__all__ = ["ModelConfig"]


@dataclass(frozen=True)
class ModelConfig(Config):
    """A network: its name, input shape, outputs and widths.

    Attributes:
        name: `"mlp"` (fully connected, ReLU), `"conv4"` (four blocks of 3×3 convolution, batch normalisation
            over the current batch, ReLU and 2×2 max-pooling, then a linear head; Vinyals et al. 2016) or
            `"resnet12"` (four residual blocks of three convolutions, average pooling, then a linear head;
            Oreshkin et al. 2018): the names of `metabridge.networks.tables.NETWORKS`.
        input_shape: shape of one example: `(features,)` for the MLP, `(H, W, channels)` for the others.
        outputs: number of outputs: ways, or 1 for regression; `None` leaves the head out, and the network is an
            embedding: `(n, features)`.
        hidden: widths of the MLP's hidden layers; channels of each of the four blocks of Conv4 (often 64)
            and ResNet-12 (64, 160, 320 and 640 in Lee et al. 2019).
    """

    name: str = "mlp"
    input_shape: tuple[int, ...] = (1,)
    outputs: int | None = 1
    hidden: tuple[int, ...] = (40, 40)

    def __post_init__(self) -> None:
        check_choice(self.name, "name", NETWORKS)
        network = NETWORKS[self.name]
        axes = 3 if network.takes_images else 1
        shape_fits = (
            isinstance(self.input_shape, (tuple, list))
            and len(self.input_shape) == axes
            and all(is_count(size) for size in self.input_shape)
        )
        require(shape_fits, "input_shape", f"{axes} positive integers for {self.name}", self.input_shape)
        outputs_fit = self.outputs is None or is_count(self.outputs)
        require(outputs_fit, "outputs", "a positive integer, or None", self.outputs)
        hidden_fits = (
            isinstance(self.hidden, (tuple, list))
            and len(self.hidden) > 0
            and all(is_count(width) for width in self.hidden)
        )
        require(hidden_fits, "hidden", "one or more positive integers", self.hidden)
        if network.poolings is not None:
            blocks, least = network.poolings, 2**network.poolings
            require(len(self.hidden) == blocks, "hidden", f"{blocks} integers for {self.name}", self.hidden)
            pixels = f"at least {least}×{least} pixels for the {blocks} poolings of {self.name}"
            require(min(self.input_shape[:2]) >= least, "input_shape", pixels, self.input_shape)
