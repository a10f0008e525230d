"""The table of layers: every MetaModule that is a layer, with its options and small inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from backends.kits import Kit, make_kit

__all__ = ["LAYERS", "LayerCase"]


@dataclass(frozen=True)
class LayerCase:
    """One layer with its options, and what it is called with.

    Attributes:
        kind: name of the layer's class without `Meta`.
        args: arguments of its constructor.
        inputs: for each input its shape, or its value; what varies over channels has them last.
        kwargs: keyword arguments of the constructor.
        options: keyword arguments of the call; arrays stay as they are.
        images: whether inputs and outputs have channels, which torch wants in the second axis.
        twice: whether torch's own layer can be differentiated twice.
        in_jax: what takes the place of `args` in JAX, where the axes of the layer are in another order.
    """

    kind: str
    args: tuple[Any, ...]
    inputs: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    images: bool = False
    twice: bool = True
    in_jax: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        options = [f"{name}={value}" for name, value in self.kwargs.items()]
        called = [name if isinstance(value, np.ndarray) else f"{name}={value}" for name, value in self.options.items()]
        shapes = [str(each if isinstance(each, tuple) else np.shape(each)) for each in self.inputs]
        return f"{self.kind}({', '.join([*map(str, self.args), *options])}) of {', '.join([*shapes, *called])}"

    def build(self, kit: Kit) -> Any:
        """The MetaModule, float64."""
        if self.in_jax and kit.name == "jax":
            return kit.layer(f"Meta{self.kind}", **self.in_jax, **self.kwargs)
        return kit.layer(f"Meta{self.kind}", *self.args, **self.kwargs)

    def plain(self) -> Any:
        """PyTorch's own layer, float64."""
        return getattr(make_kit("torch").torch.nn, self.kind)(*self.args, **self.kwargs).double()

    def neutral(self) -> dict[str, np.ndarray]:
        """Random parameters in PyTorch's names, order and axes."""
        rng = np.random.default_rng(1)
        names = dict(self.plain().named_parameters())
        return {name: 0.5 * rng.standard_normal(tuple(each.shape)) + 0.3 for name, each in names.items()}

    def values(self, seed: int = 0) -> list[np.ndarray]:
        """Its inputs, channels last."""
        rng = np.random.default_rng(seed)
        return [rng.standard_normal(each) if isinstance(each, tuple) else np.asarray(each) for each in self.inputs]

    def enter(self, kit: Kit, values: np.ndarray) -> Any:
        """One input in the framework's layout."""
        channels_first = self.images and kit.name == "torch" and values.ndim > 2
        return kit.array(np.ascontiguousarray(np.moveaxis(values, -1, 1)) if channels_first else values)

    def leave(self, kit: Kit, output: Any) -> np.ndarray:
        """An output in NumPy, channels last."""
        values = kit.numpy(output)
        return np.moveaxis(values, 1, -1) if self.images and kit.name == "torch" and values.ndim > 2 else values

    def call(self, kit: Kit, layer: Any, inputs: list[Any], **params: Any) -> Any:
        """The layer's output; the first one of several."""
        options = {
            name: kit.array(value) if isinstance(value, np.ndarray) else value for name, value in self.options.items()
        }
        if self.kind == "LSTMCell":
            inputs = [inputs[0], (inputs[1], inputs[2])]
        output = layer(*inputs, **options, **params)
        while isinstance(output, tuple):
            output = output[0]
        return output


def images(kind: str, args: tuple[Any, ...], shape: tuple[int, ...], **kwargs: Any) -> LayerCase:
    """A layer of channels."""
    return LayerCase(kind, args, (shape,), kwargs, images=True)


LINE, PLANE, SPACE = (3, 9, 4), (3, 6, 5, 4), (2, 4, 5, 3, 4)
BAGS = np.array([[1, 2, 2], [0, 5, 1]])
FLAT, STARTS = np.array([1, 2, 2, 0, 5]), np.array([0, 3, 3])
SEQUENCES = ((5, 2, 6), (4, 2, 6), (4, 2, 6))
PADDING = np.array([[False, True, False, False], [False, False, False, True]])
CAUSAL = np.triu(np.ones((5, 4), bool), 1)

LAYERS = [
    LayerCase("Linear", (3, 6), ((5, 3),)),
    LayerCase("Linear", (3, 6), ((5, 2, 3),), {"bias": False}),
    LayerCase("Bilinear", (3, 4, 2), ((5, 3), (5, 4))),
    LayerCase("Bilinear", (3, 4, 2), ((5, 2, 3), (5, 2, 4)), {"bias": False}),
    images("Conv1d", (4, 6, 3), LINE, stride=2, padding=1),
    images("Conv1d", (4, 6, 2), LINE, dilation=2, groups=2, padding="same", padding_mode="circular"),
    images("Conv2d", (4, 6, 3), PLANE, padding=1),
    images("Conv2d", (4, 6, (3, 2)), PLANE, stride=(2, 1), groups=2, bias=False),
    images("Conv2d", (4, 6, (3, 2)), PLANE, stride=2, padding=1, groups=2),
    images("Conv2d", (4, 4, 3), PLANE, padding=(2, 1), padding_mode="reflect"),
    images("Conv3d", (4, 2, 2), SPACE, padding=1, stride=(1, 2, 1)),
    images("Conv3d", (4, 4, (2, 3, 1)), SPACE, groups=2, dilation=(1, 2, 1)),
    images("ConvTranspose1d", (4, 6, 3), LINE, stride=2, padding=1, output_padding=1),
    images("ConvTranspose1d", (4, 6, 2), LINE, groups=2, dilation=2, bias=False),
    images("ConvTranspose2d", (4, 6, 3), PLANE, padding=1),
    images("ConvTranspose2d", (4, 6, (3, 2)), PLANE, stride=(2, 3), groups=2, output_padding=(1, 2), dilation=(1, 3)),
    LayerCase("ConvTranspose2d", (4, 2, 3), (PLANE,), {"stride": 2}, {"output_size": [14, 11]}, images=True),
    images("ConvTranspose3d", (4, 2, 2), SPACE, stride=(1, 2, 1)),
    images("BatchNorm1d", (4,), (6, 4)),
    images("BatchNorm1d", (4,), LINE, track_running_stats=False),
    images("BatchNorm2d", (4,), PLANE),
    images("BatchNorm2d", (4,), PLANE, eps=0.1, affine=False),
    images("BatchNorm2d", (4,), PLANE, bias=False),
    images("BatchNorm2d", (4,), PLANE, momentum=None, track_running_stats=False),
    images("BatchNorm3d", (4,), SPACE),
    LayerCase("LayerNorm", (4,), ((5, 3, 4),)),
    LayerCase(
        "LayerNorm", ((3, 4),), ((5, 3, 4),), {"eps": 0.1, "bias": False},
        in_jax={"normalized_shape": (3, 4), "channels_last": False},
    ),
    LayerCase(
        "LayerNorm", ((4, 6, 5),), (PLANE,), images=True,
        in_jax={"normalized_shape": (6, 5, 4), "channels_last": True},
    ),
    LayerCase("LayerNorm", (4,), ((5, 4),), {"elementwise_affine": False}),
    images("GroupNorm", (2, 4), PLANE),
    images("GroupNorm", (4, 4), (6, 5, 4), affine=False, eps=0.1),
    images("InstanceNorm1d", (4,), LINE, affine=True),
    images("InstanceNorm2d", (4,), PLANE),
    images("InstanceNorm2d", (4,), PLANE, affine=True, track_running_stats=True, eps=0.1),
    images("InstanceNorm3d", (4,), SPACE, affine=True),
    LayerCase("RMSNorm", (4,), ((5, 3, 4),)),
    LayerCase("RMSNorm", ((3, 4),), ((5, 3, 4),), {"eps": 0.1, "elementwise_affine": False}),
    LayerCase("Embedding", (6, 3), (BAGS,)),
    LayerCase("Embedding", (6, 3), (BAGS,), {"padding_idx": 2}),
    *(LayerCase("EmbeddingBag", (6, 3), (BAGS,), {"mode": mode}, twice=False) for mode in ("sum", "mean", "max")),
    *(
        LayerCase("EmbeddingBag", (6, 3), (FLAT, STARTS), {"mode": mode, "padding_idx": 2}, twice=False)
        for mode in ("sum", "mean", "max")
    ),
    LayerCase(
        "EmbeddingBag", (6, 3), (FLAT, np.array([0, 0, 4, 5])), {"mode": "sum", "include_last_offset": True},
        {"per_sample_weights": np.linspace(0.5, 1.5, 5)}, twice=False,
    ),
    LayerCase("MultiheadAttention", (6, 2), SEQUENCES),
    LayerCase("MultiheadAttention", (6, 3), SEQUENCES, {"bias": False}, {"need_weights": False}, twice=False),
    LayerCase(
        "MultiheadAttention", (6, 2), SEQUENCES, {"add_bias_kv": True, "add_zero_attn": True},
        {"key_padding_mask": PADDING, "attn_mask": CAUSAL},
    ),
    LayerCase(
        "MultiheadAttention", (6, 2), ((2, 5, 6), (2, 4, 3), (2, 4, 7)), {"kdim": 3, "vdim": 7, "batch_first": True},
        {"average_attn_weights": False},
    ),
    LayerCase(
        "MultiheadAttention", (6, 2), SEQUENCES, {}, {"attn_mask": np.where(CAUSAL, -2.0, 0.3), "need_weights": False},
        twice=False,
    ),
    LayerCase("PReLU", (), ((5, 3),)),
    images("PReLU", (4,), PLANE, init=0.5),
    LayerCase("RNNCell", (3, 4), ((5, 3), (5, 4))),
    LayerCase("RNNCell", (3, 4), ((5, 3),), {"nonlinearity": "relu", "bias": False}),
    LayerCase("LSTMCell", (3, 4), ((5, 3), (5, 4), (5, 4))),
    LayerCase("GRUCell", (3, 4), ((5, 3), (5, 4))),
    LayerCase("GRUCell", (3, 4), ((3,), (4,)), {"bias": False}),
]  # fmt: skip
"""Every layer, each option at least once."""
