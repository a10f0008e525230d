"""Neutral parameters (contract C6) in and out of JAX. Names stay; axes change by this table:

| parameter | neutral (PyTorch) | JAX |
| --- | --- | --- |
| linear `weight` | `(out, in)` | `(in, out)` |
| linear `weight` on flattened images | `(out, C·H·W)` | `(H·W·C, out)` |
| convolution `weight` | `(out, in, kH, kW)` | `(kH, kW, in, out)` |
| everything else | | the same |
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from metabridge.configs import ModelConfig
from metabridge.parameters import Parameters, flattened_shape, parameter_shapes
from metabridge.subdicts import check_names, check_shape

__all__ = ["from_neutral", "to_neutral"]

_CONV_TO_JAX = (2, 3, 1, 0)
_CONV_TO_NEUTRAL = (3, 2, 0, 1)


def from_neutral(
    parameters: Parameters,
    model: ModelConfig,
    dtype: npt.DTypeLike | None = None,
    device: jax.Device | None = None,
) -> dict[str, jax.Array]:
    """Neutral parameters as JAX arrays, to be passed as `params`.

    Args:
        parameters: name → array, exactly the names of `parameter_shapes(model)`.
        model: the network they are for.
        dtype: dtype of the arrays; `None` keeps each array's. float64 needs JAX's 64-bit mode.
        device: where to put them; `None` is JAX's default.

    Raises:
        ValueError: for a missing, unknown or mis-shaped parameter, or float64 without 64-bit mode.
    """
    shapes = parameter_shapes(model)
    check_names(parameters, shapes, model.name, "parameters")
    for name, shape in shapes.items():
        check_shape(name, parameters[name].shape, shape, model.name)
    arrays = {name: _to_jax_axes(name, np.asarray(parameters[name], dtype), model) for name in shapes}
    for name, array in arrays.items():
        _check_representable(name, array.dtype)
    # `jnp.array` copies; `asarray` may go on using the caller's memory.
    return {name: jax.device_put(jnp.array(array), device) for name, array in arrays.items()}


def to_neutral(params: Mapping[str, jax.Array], model: ModelConfig) -> Parameters:
    """JAX arrays as neutral parameters, in their own dtype; the inverse of `from_neutral`."""
    check_names(params, parameter_shapes(model), model.name)
    return {name: _to_neutral_axes(name, np.asarray(params[name]), model) for name in parameter_shapes(model)}


def _check_representable(name: str, dtype: npt.DTypeLike) -> None:
    """JAX turns float64 into float32 without a word unless it is in 64-bit mode."""
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            f"parameter {name!r} is {dtype}, which needs JAX's 64-bit mode; "
            "call this inside `with jax.enable_x64(True):`, or pass dtype='float32'."
        )


def _to_jax_axes(name: str, array: npt.NDArray, model: ModelConfig) -> npt.NDArray:
    if name == "head.weight" and len(flattened_shape(model)) == 3:
        array = np.moveaxis(array.reshape(-1, *flattened_shape(model)), 1, -1).reshape(len(array), -1)
    axes = {4: _CONV_TO_JAX, 2: (1, 0)}.get(array.ndim, (0,))
    return np.ascontiguousarray(array.transpose(axes))


def _to_neutral_axes(name: str, array: npt.NDArray, model: ModelConfig) -> npt.NDArray:
    array = array.transpose({4: _CONV_TO_NEUTRAL, 2: (1, 0)}.get(array.ndim, (0,)))
    if name == "head.weight" and len(flattened_shape(model)) == 3:
        depth, height, width = flattened_shape(model)
        array = np.moveaxis(array.reshape(-1, height, width, depth), -1, 1).reshape(len(array), -1)
    return np.array(array)
