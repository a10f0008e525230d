"""Neutral parameters (contract C6) in and out of JAX. Names stay; axes change by this table:

| parameter | neutral (PyTorch) | JAX |
| --- | --- | --- |
| linear `weight` | `(out, in)` | `(in, out)` |
| convolution `weight` | `(out, in / groups, kernel…)` | `(kernel…, in / groups, out)` |
| transposed convolution `weight` | `(in, out / groups, kernel…)` | `(kernel…, in, out / groups)` |
| layer and root-mean-square normalisation over images | `(channels, height, width)` | `(height, width, channels)` |
| everything else | | the same |

Every layer class holds its part of the table: `neutral_axes` maps the names of parameters with other axes to the `p` of
`neutral = array.transpose(p)`. A module of your own with parameters besides its children's needs `neutral_axes` too,
`{}` if their axes are PyTorch's. Flax's own layers have none, and so no neutral form. Normalisation over several axes
has one if `channels_last` says whether they are those of an image. Flattened images are in PyTorch's order
(`jax_backend.modules.Flatten`), so a linear layer after them needs no rule.

Two kinds of mappings are neutral: the *parameters* that are passed as `params` (`from_neutral`, `to_neutral`), and
the *state* of a network, which is its parameters and its running statistics under the names of PyTorch's state
dict (`load_neutral`, `read_neutral`).
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax import nnx

from jax_backend.models import build_model
from jax_backend.modules import MetaModule
from metabridge.adaptation.names import check_names
from metabridge.checks import check_instance, check_mapping
from metabridge.configs import ModelConfig
from metabridge.networks.layers import Chain, Free, Layer, Like, chain
from metabridge.networks.parameters import Parameters, check_parameters, check_state
from metabridge.networks.tables import network_layers

__all__ = ["from_neutral", "load_neutral", "read_neutral", "to_neutral"]

_NO_STATE = (nnx.RngState, nnx.Intermediate)


def from_neutral(
    parameters: Parameters,
    model: ModelConfig | Chain | MetaModule,
    dtype: npt.DTypeLike | None = None,
    device: jax.Device | None = None,
) -> dict[str, jax.Array]:
    """Neutral parameters as JAX arrays, to be passed as `params`.

    Args:
        parameters: name → array, exactly the names of `parameter_shapes(model)` or `model.meta_named_parameters()`.
        model: the network they are for, its config, or a table of layers such as `RunConfig.layers`.
        dtype: dtype of the arrays; `None` keeps each array's. float64 needs JAX's 64-bit mode.
        device: where to put them; `None` is JAX's default.

    Raises:
        ValueError: for a parameter that is missing, unknown or of another shape, float64 without 64-bit mode, or a
            network without neutral form.
    """
    places = _places(model)
    check_parameters(parameters, {name: place.neutral_shape for name, place in places.items()}, _owner(model))
    arrays = {name: place.to_jax(np.asarray(parameters[name], dtype)) for name, place in places.items()}
    for name, array in arrays.items():
        _check_representable(name, array.dtype)
    # `jnp.array` copies; `asarray` may go on using the caller's memory.
    return {name: jax.device_put(jnp.array(array), device) for name, array in arrays.items()}


def to_neutral(params: Mapping[str, jax.Array], model: ModelConfig | Chain | MetaModule) -> Parameters:
    """JAX arrays as neutral parameters, in their own dtype; the inverse of `from_neutral`."""
    places = _places(model)
    check_names(params, places, _owner(model))
    return {name: place.to_neutral(params[name]) for name, place in places.items()}


def load_neutral(model: MetaModule, parameters: Parameters) -> None:
    """Write a neutral state into `model`, in place and in the model's own dtypes.

    For example torchvision's, `{name: tensor.numpy() for name, tensor in resnet.state_dict().items()}`.

    Args:
        model: a network of MetaModules.
        parameters: name → array, exactly the names of `read_neutral(model)`. A shared layer or parameter occurs
            under each of its names, with equal values.

    Raises:
        ValueError: for a name that is missing, unknown or of another shape, a count that is no integer or does not fit,
            unequal values of one shared parameter, a float64 model outside of JAX's 64-bit mode, or a model without
            numbers or neutral form. Then nothing was written.
    """
    check_instance(model, nnx.Module, "model")
    check_mapping(parameters, "parameters")
    state = _state(model)
    arrays = {name: np.asarray(value) for name, value in parameters.items()}
    firsts: dict[int, str] = {}
    check_state(
        arrays,
        shapes={name: place.neutral_shape for name, (_, place) in state.items()},
        integers=[name for name, (_, place) in state.items() if place.holds_integers],
        shared={name: firsts.setdefault(id(variable), name) for name, (variable, _) in state.items()},
        owner=type(model).__name__,
    )
    new = {name: place.to_jax(_cast(name, arrays[name], place)) for name, (_, place) in state.items()}
    for name, (variable, _) in state.items():
        variable[...] = jnp.array(new[name])


def read_neutral(model: MetaModule) -> Parameters:
    """The neutral state of `model`: copies of its parameters and running statistics, under PyTorch's names.

    A shared layer or parameter occurs under each of its names, as in PyTorch's state dict. Counts are int64, as
    there. Random streams, such as a dropout's, are no part of the state.

    Raises:
        ValueError: for a model without numbers or neutral form.
    """
    check_instance(model, nnx.Module, "model")
    return {name: _widened(place.to_neutral(variable.get_value())) for name, (variable, place) in _state(model).items()}


@dataclass(frozen=True)
class _Place:
    """Where a neutral array goes: the shape and dtype of the JAX array, and `neutral = jax.transpose(axes)`."""

    shape: tuple[int, ...]
    dtype: np.dtype
    axes: tuple[int, ...]

    @property
    def neutral_shape(self) -> tuple[int, ...]:
        return tuple(self.shape[axis] for axis in self.axes)

    @property
    def holds_integers(self) -> bool:
        return np.issubdtype(self.dtype, np.integer)

    def to_jax(self, array: npt.NDArray) -> npt.NDArray:
        return np.array(array.transpose(np.argsort(self.axes)), order="C")

    def to_neutral(self, array: jax.Array) -> npt.NDArray:
        return np.array(np.asarray(array).transpose(self.axes), order="C")


def _places(model: ModelConfig | Chain | MetaModule) -> dict[str, _Place]:
    """Name → place of everything that `params` holds."""
    if isinstance(model, (ModelConfig, Chain)):
        return _table_places(model if isinstance(model, Chain) else network_layers(model))
    check_instance(model, (ModelConfig, Chain, MetaModule), "model")
    every = {name: place for name, _, place in _variables(model)}
    return {name: _known(every[name], name, model) for name, _ in model.meta_named_parameters()}


@functools.lru_cache(maxsize=64)
def _table_places(table: Chain) -> dict[str, _Place]:
    """Of abstract modules, in the core's order: Flax sorts names."""
    places: dict[str, _Place] = {}
    for name, layer in table.layers:
        places |= {f"{name}.{inner}": place for inner, place in _layer_places(layer).items()}
    return {name: places[name] for name, _ in table.parameters()}


def _layer_places(layer: Layer) -> dict[str, _Place]:
    if isinstance(layer, Like):
        return _layer_places(layer.layer)
    if isinstance(layer, Free):
        shapes = {name: parameter.shape for name, parameter in layer.parameters()}
        return {name: _Place(shape, np.dtype(np.float32), tuple(range(len(shape)))) for name, shape in shapes.items()}
    module = nnx.eval_shape(lambda: build_model(chain(layer=layer)))
    return {name.removeprefix("layer."): place for name, place in _places(module).items()}


def _state(model: MetaModule) -> dict[str, tuple[nnx.Variable, _Place]]:
    """Name → variable and place of everything that PyTorch's state dict would hold."""
    state = {name: (variable, _known(place, name, model)) for name, variable, place in _variables(model)}
    reached = {id(variable) for variable, _ in state.values()}
    for path, node in nnx.iter_graph(model):  # also inside of lists and dictionaries, which have no names in PyTorch
        if _is_state(node) and id(node) not in reached:
            _known(None, ".".join(map(str, path)), model)
    for name, (variable, _) in state.items():
        if isinstance(variable.get_value(), jax.ShapeDtypeStruct):
            raise ValueError(
                f"{name!r} of {type(model).__name__} has a shape but no numbers; build the model outside of "
                "`nnx.eval_shape`."
            )
    return state


def _variables(module: nnx.Module, prefix: str = "") -> Iterator[tuple[str, nnx.Variable, _Place | None]]:
    """Every variable in `module`, under each of its names: a module's own before its children's."""
    members = list(vars(module).items())
    neutral_axes = getattr(module, "neutral_axes", None)
    for key, value in members:
        if _is_state(value):
            shape, dtype = value.get_value().shape, value.get_value().dtype
            same = tuple(range(len(shape)))
            place = None if neutral_axes is None else _Place(shape, dtype, neutral_axes.get(key, same))
            yield f"{prefix}{key}", value, place
    for key, value in members:
        if isinstance(value, nnx.Module):
            yield from _variables(value, f"{prefix}{key}.")


def _is_state(value: object) -> bool:
    return isinstance(value, nnx.Variable) and not isinstance(value, _NO_STATE)


def _known(place: _Place | None, name: str, model: nnx.Module) -> _Place:
    if place is None:
        raise ValueError(
            f"{type(model).__name__} has no neutral form: the owner of {name!r} does not say what its axes are in "
            "PyTorch; use the layers of jax_backend.modules, give normalisation over several axes `channels_last`, or "
            "give the owner's class `neutral_axes`."
        )
    return place


def _owner(model: ModelConfig | Chain | MetaModule) -> str:
    if isinstance(model, Chain):
        return "the run"
    return model.name if isinstance(model, ModelConfig) else type(model).__name__


def _cast(name: str, array: npt.NDArray, place: _Place) -> npt.NDArray:
    """In the dtype of its place: other numbers are rounded, integers must fit."""
    _check_representable(name, place.dtype)
    cast = array.astype(place.dtype)
    if place.holds_integers and not np.array_equal(cast, array):
        raise ValueError(f"`parameters[{name!r}]` must fit into {place.dtype}, got {array.max()}.")
    return cast


def _widened(array: npt.NDArray) -> npt.NDArray:
    return array.astype(np.int64) if array.dtype == np.int32 else array


def _check_representable(name: str, dtype: npt.DTypeLike) -> None:
    """Raise `ValueError` where JAX would turn float64 into float32 in silence: outside of its 64-bit mode."""
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            f"parameter {name!r} is {dtype}, which needs JAX's 64-bit mode; "
            "call this inside `with jax.enable_x64(True):`, or pass dtype='float32'."
        )
