"""Neutral parameters: a flat mapping name → NumPy array in PyTorch's names and axis order.

The bridge between the backends (docs/architecture.md, contract C6). Initial weights are drawn here, once, and
loaded into both; a checkpoint is such a mapping in HDF5, so either backend can continue from the other's.
"""

import math
import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.adaptation.names import check_entries
from metabridge.checks import check_mapping, check_path
from metabridge.networks.layers import Chain, Parameter
from metabridge.networks.tables import Dimensions, network_layers
from metabridge.storage.arrays import read_arrays, write_arrays
from metabridge.streams import philox_words, stream_key, uniforms

__all__ = [
    "Parameters",
    "check_parameters",
    "check_state",
    "initial_parameters",
    "load_parameters",
    "parameter_shapes",
    "relative_difference",
    "save_parameters",
]

Parameters = dict[str, npt.NDArray[Any]]

_KIND = "parameters"


def parameter_shapes(model: Dimensions | Chain) -> dict[str, tuple[int, ...]]:
    """Name → shape of every parameter of a model, in the order of the model's layers."""
    return {name: parameter.shape for name, parameter in _layers(model).parameters()}


def initial_parameters(model: Dimensions | Chain, seed: int) -> Parameters:
    """Draw the initial parameters of a model, or of `RunConfig.layers`, float32, from the stream of their name.

    The distribution of PyTorch's layers: weights and biases of linear and convolutional layers uniform in
    ±1/√fan_in (Kaiming-uniform with a = √5), batch normalisation at 1 and 0. One parameter's values do not
    depend on which others the model has.
    """
    return {name: _draw(name, parameter, seed) for name, parameter in _layers(model).parameters()}


def _layers(model: Dimensions | Chain) -> Chain:
    return model if isinstance(model, Chain) else network_layers(model)


def _draw(name: str, parameter: Parameter, seed: int) -> npt.NDArray[np.float32]:
    low, high, shape = parameter.low, parameter.high, parameter.shape
    if low == high:
        return np.full(shape, low, dtype=np.float32)
    words = philox_words(stream_key(f"parameter/{name}", seed, "train"), [0], math.prod(shape))
    return uniforms(words[0], low, high).astype(np.float32).reshape(shape)


def check_parameters(
    parameters: Mapping[str, npt.NDArray[Any]], shapes: Mapping[str, tuple[int, ...]], owner: str
) -> None:
    """Raise `ValueError` unless `parameters` has exactly these names, each in its shape; `owner` is for messages."""
    check_entries(parameters, shapes, owner, "parameters")


def check_state(
    parameters: Mapping[str, npt.NDArray[Any]],
    shapes: Mapping[str, tuple[int, ...]],
    integers: Collection[str],
    shared: Mapping[str, str],
    owner: str,
) -> None:
    """Raise `ValueError` unless `parameters` can become the state of a network.

    Args:
        parameters: name → array, parameters and buffers.
        shapes: every name of the state → its shape.
        integers: names of what counts, such as `num_batches_tracked`.
        shared: name → first name of the same parameter; for most names, themselves.
        owner: the network, for messages.
    """
    check_parameters(parameters, shapes, owner)
    for name in integers:
        if parameters[name].dtype.kind not in "iu":
            raise ValueError(f"`parameters[{name!r}]` of {owner} must hold integers, got {parameters[name].dtype}.")
    for name, first in shared.items():
        if name != first and not np.array_equal(parameters[name], parameters[first], equal_nan=True):
            raise ValueError(
                f"`parameters[{name!r}]` of {owner} must equal `parameters[{first!r}]`: they are one shared parameter."
            )


def relative_difference(first: Mapping[str, npt.NDArray[Any]], second: Mapping[str, npt.NDArray[Any]]) -> float:
    """‖a − b‖ / ‖b‖ over all entries of two mappings with the same names, in float64; NaN counts as infinite.

    Raises:
        ValueError: if the names or shapes differ.
    """
    check_mapping(first, "first", "pass name → array")
    check_mapping(second, "second", "pass name → array")
    if set(first) != set(second):
        different = sorted(set(first) ^ set(second))
        raise ValueError(f"both sides must have the same parameters; only one has {', '.join(different)}.")
    squares = reference = 0.0
    for name, b in second.items():
        if first[name].shape != b.shape:
            raise ValueError(
                f"parameter {name!r} has shape {first[name].shape} on one side and {b.shape} on the other."
            )
        a64, b64 = np.asarray(first[name], np.float64), np.asarray(b, np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is reported as infinite below
            squares += float(((a64 - b64) ** 2).sum())
            reference += float((b64**2).sum())
    if not math.isfinite(squares) or not math.isfinite(reference):
        return math.inf
    if reference == 0.0:
        return 0.0 if squares == 0.0 else math.inf
    return math.sqrt(squares / reference)


def save_parameters(path: str | os.PathLike[str], parameters: Mapping[str, npt.ArrayLike]) -> None:
    """Write neutral parameters to a sealed HDF5 file, one dataset per name.

    An old file stays until the new one is whole.

    Raises:
        TypeError: if a parameter holds anything but numbers.
        OSError: if the disk is full, which leaves nothing; the message says how much is needed.
    """
    check_path(path, "path")
    check_mapping(parameters, "parameters", "pass name → array")
    write_arrays(path, _KIND, parameters)


def load_parameters(path: str | os.PathLike[str]) -> Parameters:
    """Read what `save_parameters` wrote, in the same order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged or truncated, or holds anything but parameters; the message names it.
    """
    if not check_path(path, "path").is_file():
        raise FileNotFoundError(f"no parameters at {path}; `save_parameters` writes them.")
    return read_arrays(path, _KIND)
