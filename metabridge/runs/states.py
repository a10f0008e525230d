"""The state of a learner as one flat mapping name → array, the same in every backend.

| name | content |
| --- | --- |
| `parameters/<parameter>` | a parameter, neutral |
| `optimiser/<path>/<parameter>` | an array of the optimiser's state that belongs to a parameter, neutral |
| `optimiser/<path>` | an integer of the optimiser's state: a count of steps |
| `steps_done` | meta-steps done |

Arrays are in PyTorch's axis order (contract C6), so either backend loads what the other one saved.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.adaptation.names import check_entries
from metabridge.adaptation.trees import flatten, unflatten
from metabridge.networks.parameters import Parameters

__all__ = ["State", "join_state", "split_state"]

State = dict[str, npt.NDArray[Any]]
"""Name → array, of a whole learner."""

_PARAMETERS, _OPTIMISER, _STEPS = "parameters", "optimiser", "steps_done"


def join_state(
    parameters: Mapping[str, Any],
    optimiser: Any,
    steps_done: int,
    to_neutral: Callable[[Mapping[str, Any]], Parameters],
) -> State:
    """The flat mapping of a learner's state.

    Args:
        parameters: name → array of the backend.
        optimiser: state of the optimiser: a tree of mappings by the parameters' names, and counts.
        steps_done: meta-steps done.
        to_neutral: one array per parameter → the same as neutral arrays.
    """
    state: State = {}
    for path, members in _groups({_PARAMETERS: dict(parameters), _OPTIMISER: optimiser}).items():
        if set(members) == set(parameters):
            state |= {f"{path}/{name}": array for name, array in to_neutral(members).items()}
        else:
            state |= {_join(path, name): np.asarray(int(count)) for name, count in members.items()}
    return {**state, _STEPS: np.asarray(steps_done)}


def split_state(
    state: Mapping[str, npt.NDArray[Any]],
    optimiser: Any,
    shapes: Mapping[str, tuple[int, ...]],
    from_neutral: Callable[[Parameters], dict[str, Any]],
) -> tuple[dict[str, Any], Any, int]:
    """Parameters, optimiser state and steps done from the mapping that `join_state` made.

    Args:
        state: the flat mapping.
        optimiser: state of the optimiser that takes it, for the structure.
        shapes: name → neutral shape of every parameter.
        from_neutral: one neutral array per parameter → the same as arrays of the backend.

    Raises:
        ValueError: if a name is missing or unknown, as for another optimiser or network, or a shape differs.
    """
    groups = _groups({_PARAMETERS: dict.fromkeys(shapes, 0), _OPTIMISER: optimiser})
    expected: dict[str, tuple[int, ...]] = {_STEPS: ()}
    for path, members in groups.items():
        by_parameter = set(members) == set(shapes)
        expected |= {_join(path, name): shapes[name] if by_parameter else () for name in members}
    check_entries(state, expected, "the learner", "state")
    leaves: dict[str, Any] = {}
    for path, members in groups.items():
        values = {name: state[_join(path, name)] for name in members}
        by_parameter = set(members) == set(shapes)
        found = from_neutral(values) if by_parameter else {name: int(value) for name, value in values.items()}
        leaves |= {_join(path, name): value for name, value in found.items()}
    parameters = {name: leaves[f"{_PARAMETERS}/{name}"] for name in shapes}
    return parameters, unflatten({_OPTIMISER: optimiser}, leaves, "/")[_OPTIMISER], int(state[_STEPS])


def _groups(tree: Any) -> dict[str, dict[str, Any]]:
    """Path → the leaves directly below it, by their last name."""
    groups: dict[str, dict[str, Any]] = {}
    for path, leaf in flatten(tree, "/").items():
        parent, _, name = path.rpartition("/")
        groups.setdefault(parent, {})[name] = leaf
    return groups


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name
