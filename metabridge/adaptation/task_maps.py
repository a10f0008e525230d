"""How the tasks of a meta-batch are computed: all at once, one after another, or some at a time.

Vectorising over tasks turns the convolutions of differently adapted networks into grouped convolutions. A GPU runs
those well; on a CPU they cost two to three times the loop in PyTorch and up to thirty times in XLA. Networks of matrix
products gain from vectorising everywhere.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from metabridge.checks import check_count

__all__ = ["Chunked", "ResolvedTaskMap", "TaskMap", "check_batch", "check_task_map", "resolve_task_map"]

_NAMES = ("auto", "vectorised", "sequential")


@dataclass(frozen=True)
class Chunked:
    """Some tasks at a time: the memory of `size` vectorised tasks, and the result of all.

    Attributes:
        size: tasks that are computed at once; the last chunk may have fewer.

    Raises:
        ValueError: for a size below 1.
    """

    size: int

    def __post_init__(self) -> None:
        check_count(self.size, "size")


ResolvedTaskMap: TypeAlias = Literal["vectorised", "sequential"] | Chunked

TaskMap: TypeAlias = Literal["auto"] | ResolvedTaskMap
"""`"auto"` (the faster one on the device at hand), `"vectorised"`, `"sequential"` or `Chunked(size)`."""


def check_task_map(task_map: object) -> None:
    """Raise `ValueError` unless `task_map` is one of the values of `TaskMap`."""
    if not isinstance(task_map, Chunked) and task_map not in _NAMES:
        raise ValueError(
            f"`task_map` must be {', '.join(map(repr, _NAMES))} or Chunked(size), got {task_map!r}; "
            "Chunked is in metabridge.adaptation.task_maps."
        )


def check_batch(batch: Any) -> None:
    """Raise `ValueError` unless a meta-batch holds as many tasks in each split, whose arrays have a task axis."""
    if not isinstance(batch, Mapping):
        raise ValueError(
            f"`batch` must be a mapping split → (inputs, targets), got {type(batch).__name__}; attach a splitter to "
            "the meta-dataset."
        )
    counts = {}
    for name, (inputs, targets) in batch.items():
        if len(inputs.shape) < 2 or len(targets.shape) < 2:
            raise ValueError(
                f"`batch[{name!r}]` must be inputs (B, n, …) and targets (B, n, …) of B tasks, got shapes "
                f"{tuple(inputs.shape)} and {tuple(targets.shape)}; add a task axis in front."
            )
        counts[name] = {inputs.shape[0], targets.shape[0]}
    if len(set().union(*counts.values())) != 1:
        shapes = {name: (tuple(inputs.shape), tuple(targets.shape)) for name, (inputs, targets) in batch.items()}
        raise ValueError(f"`batch` must have equally many tasks in all its arrays, got shapes {shapes}.")


def resolve_task_map(task_map: TaskMap, device_kind: str, shapes: Iterable[tuple[int, ...]]) -> ResolvedTaskMap:
    """`task_map` itself, or for `"auto"` the faster one on this device.

    >>> resolve_task_map("auto", "cpu", [(64, 1, 3, 3), (64,)])
    'sequential'

    Args:
        task_map: the caller's choice.
        device_kind: `"cpu"`, `"cuda"`, `"gpu"`, …
        shapes: of the network's parameters. A weight of three axes or more counts as a convolution's.
    """
    if task_map != "auto":
        return task_map
    convolves = any(len(shape) >= 3 for shape in shapes)
    return "sequential" if device_kind == "cpu" and convolves else "vectorised"
