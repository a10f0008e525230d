"""One kit per backend: the mirrored modules, and the few operations a test needs in both frameworks."""

import contextlib
import importlib
import inspect
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest

from metabridge.configs import ModelConfig
from metabridge.networks.layers import Chain

__all__ = ["FRAMEWORKS", "JaxKit", "Kit", "TorchKit", "make_kit"]

FRAMEWORKS = {"torch": ("torch",), "jax": ("jax", "flax", "optax")}
"""Backend → packages it cannot do without."""


class Kit:
    """A backend's mirrored modules by their common names (`kit.data`, `kit.modules`, …).

    Layers and arrays made by a kit are float64; for JAX that needs the `backend64` fixture.
    """

    name: str

    def __getattr__(self, module: str) -> Any:
        return importlib.import_module(f"{self.name}_backend.{module}")

    def __repr__(self) -> str:
        return self.name

    def float64(self) -> AbstractContextManager[Any]:
        """Whatever the framework needs to compute in float64."""
        raise NotImplementedError

    def mixed_dtypes(self) -> AbstractContextManager[Any]:
        """Lets dtypes mix inside `float64()`, for layers of others that mix them."""
        return contextlib.nullcontext()

    def array(self, values: Any) -> Any:
        """The framework's array of these numbers; images stay in the order they are in."""
        raise NotImplementedError

    def images(self, values: np.ndarray) -> Any:
        """NHWC images in the framework's own layout."""
        raise NotImplementedError

    def vectorise(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The function of many tasks, from that of one."""
        raise NotImplementedError

    def numpy(self, value: Any) -> Any:
        """Back in NumPy; mappings name by name."""
        if isinstance(value, Mapping):
            return {name: self.numpy(each) for name, each in value.items()}
        return np.asarray(value)

    def images_to_numpy(self, value: Any) -> np.ndarray:
        """Images in the framework's layout back as NHWC."""
        raise NotImplementedError

    def layer(self, kind: str, *args: Any, **kwargs: Any) -> Any:
        """A layer of `kit.modules`, float64."""
        raise NotImplementedError

    def plain_linear(self, inputs: int, outputs: int) -> Any:
        """The framework's own affine layer, which is no MetaModule."""
        raise NotImplementedError

    def plain_sequence(self, *layers: Any) -> Any:
        """The framework's own container, which is no MetaModule."""
        raise NotImplementedError

    def batch_normalised(self) -> Any:
        """The framework's own affine layer and batch normalisation, 4 to 4 features, in training mode."""
        raise NotImplementedError

    def transform(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The gradient of a scalar function, as a function that can be differentiated and vectorised again."""
        raise NotImplementedError

    def network(self, model: ModelConfig | Chain) -> Any:
        """A network to be called with parameters from outside: it has names and shapes but no numbers."""
        raise NotImplementedError

    def layer_weights(self, neutral: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Parameters of single layers in PyTorch's axis order as this framework's."""
        raise NotImplementedError

    def buffer(self, layer: Any, name: str) -> np.ndarray:
        """A layer's running statistic."""
        raise NotImplementedError

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as the framework runs it fastest: op by op JAX would compile each operation."""
        raise NotImplementedError

    def gradient(self, function: Callable[[Any], Any], at: Any, has_aux: bool = False) -> Any:
        """Gradient of a scalar function of an array or a dictionary of arrays.

        With `has_aux` the function returns a pair, and so does this: (gradient, second).
        """
        raise NotImplementedError

    def second_order(self, function: Callable[[Any], Any], at: Any, vector: Any) -> Any:
        """(second derivatives of a scalar function times a vector, its gradient), by reverse mode twice."""

        def along(x: Any) -> Any:
            gradient = self.gradient(function, x)
            return (gradient * vector).sum(), gradient

        return self.gradient(along, at, has_aux=True)

    def parameters(self, module: Any) -> dict[str, Any]:
        """`meta_named_parameters` as a dictionary."""
        return dict(module.meta_named_parameters())


class TorchKit(Kit):
    """PyTorch."""

    name = "torch"

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")
        self.torch.set_num_threads(1)  # for arrays this small, waiting for other threads costs more than they help
        self.relu = self.torch.nn.ReLU()

    def float64(self) -> AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def array(self, values: Any) -> Any:
        return self.torch.tensor(np.asarray(values))

    def images(self, values: np.ndarray) -> Any:
        return self.array(np.ascontiguousarray(np.moveaxis(values, -1, -3)))

    def vectorise(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return self.torch.func.vmap(function)

    def numpy(self, value: Any) -> Any:
        return super().numpy(value.detach() if hasattr(value, "detach") else value)

    def images_to_numpy(self, value: Any) -> np.ndarray:
        return np.moveaxis(self.numpy(value), -3, -1)

    def layer(self, kind: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.modules, kind)(*args, **kwargs).double()

    def plain_linear(self, inputs: int, outputs: int) -> Any:
        return self.torch.nn.Linear(inputs, outputs).double()

    def plain_sequence(self, *layers: Any) -> Any:
        return self.torch.nn.Sequential(*layers)

    def batch_normalised(self) -> Any:
        return self.plain_sequence(self.plain_linear(4, 4), self.torch.nn.BatchNorm1d(4).double())

    def transform(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return self.torch.func.grad(function)

    def network(self, model: ModelConfig | Chain) -> Any:
        with self.torch.device("meta"):
            return self.models.build_model(model)

    def layer_weights(self, neutral: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {name: self.array(value) for name, value in neutral.items()}

    def buffer(self, layer: Any, name: str) -> np.ndarray:
        return self.numpy(getattr(layer, name)).copy()

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def gradient(self, function: Callable[[Any], Any], at: Any, has_aux: bool = False) -> Any:
        return self.torch.func.grad(function, has_aux=has_aux)(at)


class JaxKit(Kit):
    """JAX."""

    name = "jax"

    def __init__(self) -> None:
        self.jax = importlib.import_module("jax")
        self.nnx = importlib.import_module("flax.nnx")
        self.relu = self.nnx.relu

    @contextlib.contextmanager
    def float64(self) -> Any:
        # Implicit promotion is an error: a float32 that slips in would cost half the digits.
        with self.jax.enable_x64(True), self.jax.numpy_dtype_promotion("strict"):
            yield

    def mixed_dtypes(self) -> AbstractContextManager[Any]:
        return self.jax.numpy_dtype_promotion("standard")

    def array(self, values: Any) -> Any:
        return self.jax.numpy.asarray(values)

    def images(self, values: np.ndarray) -> Any:
        return self.array(values)

    def vectorise(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return self.jax.vmap(function)

    def images_to_numpy(self, value: Any) -> np.ndarray:
        return self.numpy(value)

    def layer(self, kind: str, *args: Any, **kwargs: Any) -> Any:
        make = getattr(self.modules, kind)
        if "rngs" in inspect.signature(make.__init__).parameters:
            kwargs.setdefault("rngs", self.nnx.Rngs(0))
        return make(*args, **kwargs)

    def plain_linear(self, inputs: int, outputs: int) -> Any:
        return self.nnx.Linear(inputs, outputs, rngs=self.nnx.Rngs(0), param_dtype=float)

    def plain_sequence(self, *layers: Any) -> Any:
        return self.nnx.Sequential(*layers)

    def batch_normalised(self) -> Any:
        batch_norm = importlib.import_module("backends.jax_modules").batch_norm
        return self.plain_sequence(self.plain_linear(4, 4), batch_norm(4))

    def transform(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return self.jax.grad(function)

    def network(self, model: ModelConfig | Chain) -> Any:
        return self.nnx.eval_shape(lambda: self.models.build_model(model))

    def layer_weights(self, neutral: Mapping[str, np.ndarray]) -> dict[str, Any]:
        axes = {4: (2, 3, 1, 0), 2: (1, 0)}
        return {name: self.array(value.transpose(axes.get(value.ndim))) for name, value in neutral.items()}

    def buffer(self, layer: Any, name: str) -> np.ndarray:
        return np.array(getattr(layer, name)[...])

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return self.jax.jit(function)

    def gradient(self, function: Callable[[Any], Any], at: Any, has_aux: bool = False) -> Any:
        return self.compile(self.jax.grad(function, has_aux=has_aux))(at)


KITS = {"torch": TorchKit, "jax": JaxKit}


def make_kit(name: str) -> Kit:
    """The kit of a backend. Without its framework: an error where CI must test everything, a skip elsewhere."""
    try:
        for package in FRAMEWORKS[name]:
            importlib.import_module(package)
    except ModuleNotFoundError as error:
        reason = f"the {name} backend needs {error.name}; install it with pip install 'metabridge[{name}]'"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return KITS[name]()
