"""Tables of classes: names that are distinct, and examples grouped by label without being read."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["check_distinct", "group_labels"]

Integers = npt.NDArray[np.int64]


def check_distinct(class_names: Iterable[str]) -> None:
    """Raise `ValueError` if a name appears twice."""
    seen: set[str] = set()
    for name in class_names:
        if name in seen:
            raise ValueError(f"`class_names` must be distinct, {name!r} appears twice.")
        seen.add(name)


def group_labels(
    labels: npt.ArrayLike, class_names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], Integers, Integers | None]:
    """Group examples by label: classes in the order of their labels, examples in their own order.

    Args:
        labels: `(total,)` integers, strings or floats, in any order.
        class_names: names of labels 0, 1, …; `None` names a class by its label.

    Returns:
        The names of the labels that occur; `(C,)` how often each does; and `(total,)` the positions of the
        examples class by class, or `None` where `labels` are in that order already.

    Raises:
        ValueError: if `labels` have more than one axis, are neither numbers nor strings, or are no positions in
            `class_names`.
    """
    found = np.asarray(labels)
    if found.ndim != 1:
        raise ValueError(f"`labels` must be one label per example, got an array of shape {found.shape}.")
    if found.dtype == object:
        found = np.array(found.tolist())
        if found.dtype == object:
            missing = next(label for label in found if not isinstance(label, (str, int, float)))
            raise ValueError(f"`labels` must be integers, strings or floats, got {missing!r} among them.")
    if len(found) and (found[1:] >= found[:-1]).all():
        starts = np.flatnonzero(np.append(True, found[1:] != found[:-1]))
        sizes = np.diff(starts, append=len(found))
        return _names_of(found[starts], class_names), sizes, None
    values, inverse = _number_labels(found)
    sizes = np.bincount(inverse, minlength=len(values)).astype(np.int64)
    return _names_of(values, class_names), sizes, _stable_order(inverse)


def _number_labels(labels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """`np.unique(labels, return_inverse=True)`, without sorting where labels are small integers."""
    if labels.dtype.kind in "iu" and labels.size and labels.min() >= 0 and labels.max() < 2 * labels.size + 1024:
        present = np.bincount(labels) > 0
        return np.flatnonzero(present), (np.cumsum(present) - 1)[labels]
    return np.unique(labels, return_inverse=True)


def _stable_order(numbers: npt.NDArray[Any]) -> Integers:
    """`np.argsort(numbers, kind="stable")` of class numbers, 16 bits at a time, which NumPy sorts in linear time."""
    order = np.argsort((numbers & 0xFFFF).astype(np.uint16), kind="stable")
    shift = 16
    while numbers.size and numbers.max() >> shift:
        digits = ((numbers >> shift) & 0xFFFF).astype(np.uint16)
        order = order[np.argsort(digits[order], kind="stable")]
        shift += 16
    return order


def _names_of(values: npt.NDArray[Any], class_names: Sequence[str] | None) -> tuple[str, ...]:
    if class_names is None:
        return tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values.tolist())
    if values.size and (values.dtype.kind not in "iu" or values[0] < 0 or values[-1] >= len(class_names)):
        raise ValueError(
            f"with `class_names` the labels must be integers in [0, {len(class_names)}), got {values[0]!r} to "
            f"{values[-1]!r}; leave `class_names` out to name classes by their labels."
        )
    return tuple(class_names[value] for value in values.tolist())
