"""The record of a network."""

from dataclasses import dataclass

from metabridge.checks import is_count, require
from metabridge.configs.record import Config

__all__ = ["ModelConfig"]


@dataclass(frozen=True)
class ModelConfig(Config):
    """Which network, from what shape to how many outputs.

    Attributes:
        name: `"mlp"` (fully connected, ReLU), `"conv4"` (four blocks of 3×3 convolution, batch normalisation
            over the current batch, ReLU and 2×2 max-pooling, then a linear head; Vinyals et al. 2016) or
            `"resnet12"` (four residual blocks of three convolutions, average pooling, then a linear head;
            Oreshkin et al. 2018).
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
        require(self.name in ("mlp", "conv4", "resnet12"), "name", "'mlp', 'conv4' or 'resnet12'", self.name)
        axes = 1 if self.name == "mlp" else 3
        shape_fits = len(self.input_shape) == axes and all(is_count(size) for size in self.input_shape)
        require(shape_fits, "input_shape", f"{axes} positive integers for {self.name}", self.input_shape)
        outputs_fit = self.outputs is None or is_count(self.outputs)
        require(outputs_fit, "outputs", "a positive integer, or None", self.outputs)
        hidden_fits = len(self.hidden) > 0 and all(is_count(width) for width in self.hidden)
        require(hidden_fits, "hidden", "one or more positive integers", self.hidden)
        if self.name != "mlp":
            require(len(self.hidden) == 4, "hidden", f"four integers for {self.name}", self.hidden)
            least = min(self.input_shape[:2])
            require(
                least >= 16,
                "input_shape",
                f"at least 16×16 pixels for {self.name}'s four poolings",
                self.input_shape,
            )
