"""How the tasks of a meta-batch are computed: all at once, one after another, or some at a time.

Vectorising over tasks turns the convolutions of differently adapted networks into grouped convolutions. A GPU runs
those well; on a CPU they cost two to three times the loop in PyTorch and up to thirty times in XLA. Where
tasks share all weights, as in prototypical networks, vectorising is a larger batch, and still slower there: 1.1 times
in PyTorch and 1.9 times in XLA (Conv4 of 32 channels, 4 tasks, 28×28 pixels). Networks of matrix products gain from
vectorising everywhere.
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


def check_batch(batch: Any, kinds: tuple[type, ...], backend: str) -> None:
    """Raise `ValueError` unless a meta-batch holds as many tasks in each split, in arrays with a task axis.

    Inputs `(n, features)` and targets `(n, 1)` of a single task would pass for n tasks of one example, so inputs need
    three axes.

    Args:
        batch: what the caller gave.
        kinds: the classes of arrays that the backend takes.
        backend: its package, for messages.
    """
    if not isinstance(batch, Mapping):
        raise ValueError(
            f"`batch` must be a mapping split → (inputs, targets), got {type(batch).__name__}; attach a splitter to "
            "the meta-dataset."
        )
    others = [name for name in ("support", "query") if name in batch]
    if others:
        raise ValueError(
            f"`batch` must have the splits 'train' and 'test', got {' and '.join(map(repr, others))}; give the "
            "splitter `num_train_per_class` and `num_test_per_class`."
        )
    counts = set()
    for name, pair in batch.items():
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"`batch[{name!r}]` must be a pair (inputs, targets), got {type(pair).__name__}.")
        inputs, targets = pair
        for array in (inputs, targets):
            if not isinstance(array, kinds):
                raise ValueError(
                    f"`batch[{name!r}]` must hold arrays of {backend}, got {type(array).__module__}."
                    f"{type(array).__name__} in {type(batch).__name__}; take batches from BatchMetaDataLoader of "
                    f"{backend}.data, or make one with its to_backend(batch)."
                )
        shapes = tuple(inputs.shape), tuple(targets.shape)
        if len(shapes[0]) < 3 or len(shapes[1]) < 2 or shapes[0][:2] != shapes[1][:2]:
            raise ValueError(
                f"`batch[{name!r}]` must be inputs (B, n, features …) and targets (B, n, …) of n examples of B tasks, "
                f"got shapes {shapes[0]} and {shapes[1]}; write x[None] for the task axis of a single task, and "
                "x[..., None] for the features of scalar inputs."
            )
        counts.add(shapes[0][0])
    if len(counts) != 1 or 0 in counts:
        found = {name: (tuple(inputs.shape), tuple(targets.shape)) for name, (inputs, targets) in batch.items()}
        raise ValueError(f"`batch` must have equally many tasks in all its arrays, at least one, got shapes {found}.")


def resolve_task_map(
    task_map: TaskMap, device_kind: str, shapes: Iterable[tuple[int, ...]], has_convolutions: bool | None = None
) -> ResolvedTaskMap:
    """`task_map` itself, or for `"auto"` the faster one on this device.

    >>> resolve_task_map("auto", "cpu", [(64, 1, 3, 3), (64,)])
    'sequential'

    Args:
        task_map: the caller's choice.
        device_kind: `"cpu"`, `"cuda"`, `"gpu"`, …
        shapes: of the network's parameters.
        has_convolutions: whether the model has layers for convolutions; `None` where its content is unknown. In both
            cases a weight of three axes or more counts as a convolution's. In a model without such layers one of four
            axes does, for its own code may convolve with it; three axes are those of bilinear forms and attention.
    """
    if task_map != "auto":
        return task_map
    least = 4 if has_convolutions is False else 3
    convolves = any(len(shape) >= least for shape in shapes)
    return "sequential" if device_kind == "cpu" and convolves else "vectorised"
