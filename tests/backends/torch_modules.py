"""torch modules as users have them, `(batch, 4)` to `(batch, 3)`, with everything that makes adapting them hard."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer

__all__ = ["MODULES"]


class Tied(nn.Module):
    """Two layers share a weight, a plain list holds them both, and `F.layer_norm` takes a weight directly."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.second.weight = self.first.weight
        self.head = nn.Linear(4, 3)
        self.order = [self.first, self.second]

    def forward(self, inputs: Tensor) -> Tensor:
        for layer in self.order:
            inputs = layer(torch.tanh(inputs))
        return self.head(F.layer_norm(inputs, (4,), self.norm.weight, self.norm.bias))


class Counting(nn.Module):
    """A buffer that is bound anew at every call, and batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return self.head(self.norm(inputs + self.scale * inputs**2))


class Recurrent(nn.Module):
    """A recurrent layer keeps its weights in a list of its own as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(1, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.layer(inputs[..., None])[0][:, -1])


class Transformer(nn.Module):
    """torchvision's, on images of 2×2 pixels; attention without weights, which torch fuses."""

    def __init__(self) -> None:
        super().__init__()
        self.net = VisionTransformer(2, 1, 1, 2, 4, 8, num_classes=3)
        nn.init.normal_(self.net.heads.head.weight)  # torchvision begins at zero

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs.view(-1, 1, 2, 2).expand(-1, 3, -1, -1))


class Convolutional(nn.Module):
    """Maps, normalisation of every kind, an embedding with padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 4, padding_idx=1)
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 1),
            nn.BatchNorm2d(4),
            nn.PReLU(4),
            nn.InstanceNorm2d(4, affine=True),
            nn.Conv2d(4, 4, 2),
            nn.GroupNorm(2, 4),
        )
        self.head = nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        images = (inputs + self.embed(inputs.argmax(1))).view(-1, 1, 2, 2)
        return self.head(self.body(F.pad(images, (1, 0, 1, 0))).mean((2, 3)))


MODULES = {
    "tied": Tied,
    "counting": Counting,
    "recurrent": Recurrent,
    "transformer": Transformer,
    "convolutional": Convolutional,
}
"""Name → class."""
