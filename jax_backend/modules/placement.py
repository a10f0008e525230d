"""`params` put in place: once, at the outermost call, for the whole tree of modules."""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx
from flax.nnx.tracers import TraceState

from jax_backend.modules.variables import all_variables, buffer_values, given_names, meta_variables, parts
from metabridge.adaptation.names import check_shape
from metabridge.networks.calls import CALLS, Call, ParamsArgument

__all__ = ["Statistics", "moves_statistics", "placed", "substituted", "taking_params"]


def taking_params(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A call with one more argument, `params`, which are in place while `forward` runs.

    A `forward` that has an argument `params` of its own, as in Torchmeta's modules, receives it.
    """
    argument = ParamsArgument(forward)

    @functools.wraps(forward)
    def call(module: Any, *inputs: Any, **options: Any) -> Any:
        params, inputs, options = argument.split(inputs, options)
        if params is None and not CALLS.stack:
            return forward(module, *inputs, **options)
        with _in_place(module, params):
            return forward(module, *inputs, **options)

    call.__signature__ = argument.signature  # type: ignore[attr-defined]
    call.takes_params = True  # type: ignore[attr-defined]
    return call


@dataclass(frozen=True)
class Statistics:
    """What becomes of running statistics in a call.

    Attributes:
        observing: whether normalisation by the batch moves them.
        follows_model: whether a module inside that has a policy of its own keeps it.
    """

    observing: bool = False
    follows_model: bool = True


def moves_statistics() -> bool:
    """Whether a layer that normalises by its batch now moves its running statistics: not in a call with `params`."""
    return not CALLS.stack or CALLS.stack[-1].context.observing


def _in_place(module: Any, params: Mapping[str, jax.Array] | None) -> AbstractContextManager[Any]:
    """Where a module's own call runs."""
    around = CALLS.around(module)
    if params is not None and (around is None or not around.with_params or not _holds_already(module, params)):
        return placed(module, params)
    if around is not None:
        return _by_running_statistics(module, module._meta_frozen and around.context.follows_model)
    CALLS.check_reached(module, (name for name, _ in meta_variables(module)))
    return nullcontext()


def _holds_already(module: Any, params: Mapping[str, jax.Array]) -> bool:
    """Whether these very arrays are in place, put there by a call around this one."""
    own = {name: variable.get_raw_value() for name, variable in meta_variables(module)}
    return own.keys() == params.keys() and all(params[name] is value for name, value in own.items())


@contextmanager
def placed(
    module: Any,
    params: Mapping[str, jax.Array] | None,
    buffers: Mapping[str, jax.Array] | None = None,
    statistics: Statistics | None = None,
    frozen: bool = False,
) -> Iterator[None]:
    """Inside the `with` block the module computes with other parameters and buffers, afterwards with its own again.

    Whatever the block writes into a variable of the module, or into an attribute, is gone after it.

    Args:
        module: a MetaModule.
        params: name → array for all its parameters; `None` for the stored ones.
        buffers: name → array for all its running statistics; `None` for those in place.
        statistics: what becomes of running statistics; `None` for the rule of the call around this one.
        frozen: whether normalisation uses the running statistics in training mode too.

    Raises:
        ValueError: if `params` or `buffers` does not fit the module, see `MetaModule`.
    """
    replaced: dict[int, jax.Array] = {}
    if params is not None:
        replaced |= _fitting(module, params, nnx.Param, "params")
    if buffers is not None:
        replaced |= _fitting(module, buffers, nnx.BatchStat, "buffers")
    around = CALLS.around(module)
    statistics = statistics or (around.context if around else Statistics())
    frozen = frozen or (module._meta_frozen and statistics.follows_model)
    nodes, variables = parts(module)
    call = Call(type(module).__name__, frozenset(map(id, nodes)), params is not None, statistics)
    if around is not None:  # whose own copies take what is written
        nodes, variables = [], [each for each in variables if id(each) in replaced]
    with substituted(nodes, variables, replaced), _by_running_statistics(module, frozen):
        CALLS.stack.append(call)
        try:
            yield
        finally:
            CALLS.stack.pop()


def _fitting(module: nnx.Module, given: Mapping[str, jax.Array], kind: Any, argument: str) -> dict[int, jax.Array]:
    """Identity of each variable of this kind → the array it is given."""
    chosen = given_names(module, given, kind, argument)
    for name, variable, _ in all_variables(module):
        if name in given and isinstance(variable, kind):
            check_shape(name, given[name].shape, variable.get_raw_value().shape, type(module).__name__, argument)
    return {identity: given[name] for identity, name in chosen.items()}


@contextmanager
def substituted(
    nodes: list[nnx.Pytree], variables: list[nnx.Variable], replaced: Mapping[int, jax.Array]
) -> Iterator[None]:
    """Inside the `with` block the variables hold other values, as if they were made there, inside of `jax.jit` and all.

    Afterwards variables and attributes are as they were.
    """
    attributes = [dict(vars(node)) for node in nodes]
    states = [variable.__getstate__() for variable in variables]
    here = TraceState()
    try:
        for variable, state in zip(variables, states, strict=True):
            value = replaced.get(id(variable), state["_raw_value"])
            variable.__setstate__({**state, "_raw_value": value, "_trace_state": here})
        yield
    finally:
        for variable, state in zip(variables, states, strict=True):
            variable.__setstate__(state)
        for node, before in zip(nodes, attributes, strict=True):
            vars(node).clear()
            vars(node).update(before)


@contextmanager
def _by_running_statistics(module: nnx.Module, frozen: bool) -> Iterator[None]:
    """Inside the `with` block, if `frozen`, all normalisation in `module` uses its running statistics.

    Raises:
        ValueError: if the block has moved running statistics all the same.
    """
    layers = [each for each in parts(module)[0] if hasattr(each, "use_running_average")] if frozen else []
    own = [vars(layer)["use_running_average"] for layer in layers]
    before = buffer_values(module) if frozen else {}
    for layer in layers:
        vars(layer)["use_running_average"] = True
    try:
        yield
    finally:
        for layer, value in zip(layers, own, strict=True):
            vars(layer)["use_running_average"] = value
    after = buffer_values(module) if frozen else {}
    moved = [name for name, value in before.items() if after[name] is not value]
    if moved:
        raise ValueError(
            f'`batch_norm` is "frozen" but the call has moved {moved[0]!r}: the module itself tells its batch '
            "normalisation to use the batch; leave `use_running_average` out of its call."
        )
