"""Tables of classes: names that are distinct, and examples grouped by label without being read."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "NO_CLASS",
    "check_classes",
    "check_distinct",
    "check_layout",
    "check_positions",
    "group_labels",
    "integers_of",
    "label_array",
    "positions_of",
]

Integers = npt.NDArray[np.int64]

NO_CLASS = (
    "a class source needs at least one class, got none; look at the folder, array or list of classes it came from."
)
_CHANNELS = (1, 3, 4)
_MOST_CHANNELS = 16  # of an image in front of whose axes there are only one, three or four rows
_INT64 = np.dtype(np.int64)
_PLAIN = (str, bytes, int, float, np.number, np.bool_)


def check_classes(class_names: Sequence[str], class_sizes: Integers, dtype: np.dtype[Any]) -> None:
    """Check what every source must be.

    Raises:
        TypeError: if `dtype` is neither uint8 nor floating point, or a name is no string.
        ValueError: if there is no class, one has no example or no name, or a name appears twice.
    """
    if dtype != np.uint8 and dtype.kind != "f":
        raise TypeError(
            f"`examples` must be uint8 images or floating-point features, got {dtype}; "
            "convert them first, for example with examples.astype(np.float32)."
        )
    if len(class_names) != len(class_sizes):
        raise ValueError(
            "`class_names` and `class_sizes` must have one entry per class, got "
            f"{len(class_names)} and {len(class_sizes)}."
        )
    if not len(class_names):
        raise ValueError(NO_CLASS)
    check_distinct(class_names)
    if class_sizes.min() < 1:
        name = class_names[int(class_sizes.argmin())]
        raise ValueError(f"every class needs at least one example, class {name!r} has none; leave it out.")


def check_layout(example_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse images whose axes are not (H, W, channels), as far as shapes can tell.

    Raises:
        ValueError: for images without an axis of channels, or with that axis in front.
    """
    if dtype == np.uint8 and len(example_shape) == 2:
        raise ValueError(
            f"`examples` must be images (H, W, channels), got {example_shape}; give them the axis with "
            "images[..., np.newaxis]."
        )
    if len(example_shape) != 3 or example_shape[0] not in _CHANNELS or min(example_shape[1:]) <= _MOST_CHANNELS:
        return
    if dtype == np.uint8 or example_shape[1] == example_shape[2]:  # features may have any axes
        raise ValueError(
            f"`examples` must be images (H, W, channels), got {example_shape}, which looks like (channels, H, W); pass "
            "images.transpose(0, 2, 3, 1)."
        )


def check_distinct(class_names: Iterable[str]) -> None:
    """Check the names of classes.

    Raises:
        TypeError: if one is no string.
        ValueError: if one appears twice or cannot be written in UTF-8.
    """
    names = list(class_names)
    if not all(issubclass(kind, str) for kind in set(map(type, names))):
        other = next(name for name in names if not isinstance(name, str))
        raise TypeError(f"`class_names` must be strings, got {other!r}; pass str({other!r}).")
    if len(set(names)) != len(names):
        twice = Counter(names).most_common(1)[0][0]
        raise ValueError(f"`class_names` must be distinct, {twice!r} appears twice.")
    try:
        "".join(names).encode()
    except UnicodeEncodeError as error:
        part = error.object[error.start : error.end]
        raise ValueError(
            f"`class_names` must be valid Unicode, got {next(name for name in names if part in name)!r}; "
            "rename the class."
        ) from None


def positions_of(class_ids: npt.ArrayLike, number: int) -> Integers:
    """The ids of classes as an array.

    Raises:
        TypeError: if they are no list of integers; of a mask NumPy would make the ids 0 and 1.
        IndexError: if one is not in [0, `number`).
    """
    ids = np.asarray(class_ids)
    if not ids.size:
        return np.zeros(0, dtype=np.int64)
    if ids.dtype.kind not in "iu" or ids.ndim != 1:
        raise TypeError(
            f"`class_ids` must be a list of integers, got {ids.dtype} of shape {ids.shape}; "
            "of a mask pass np.flatnonzero(mask)."
        )
    if ids.min() < 0 or ids.max() >= number:
        raise IndexError(f"`class_ids` must lie in [0, {number}), got {ids.min()} to {ids.max()}.")
    return ids.astype(np.int64)


def integers_of(values: npt.ArrayLike, argument: str) -> Integers:
    """Integers of any type as int64.

    Raises:
        TypeError: if they are none: a fraction would be cut off in silence.
    """
    found = np.asarray(values)
    if found.size and found.dtype.kind not in "iu":
        raise TypeError(f"`{argument}` must be integers, got {found.dtype}; convert them with .astype(np.int64).")
    return found.astype(np.int64)


def check_positions(class_sizes: Integers, class_ids: npt.ArrayLike, example_ids: npt.ArrayLike) -> None:
    """Check that every class has the example that is asked for.

    An id beyond a class's last example would be an example of the next class.

    Args:
        class_sizes: `(C,)` examples per class.
        class_ids: integers.
        example_ids: integers, broadcast against `class_ids`.

    Raises:
        TypeError: if one of them holds no integers.
        IndexError: unless class ids lie in [0, C) and example ids in [0, size of the class).
    """
    classes, examples = np.asarray(class_ids), np.asarray(example_ids)
    if classes.dtype != _INT64 or examples.dtype != _INT64:
        for argument, ids in (("class_ids", classes), ("example_ids", examples)):
            if ids.dtype.kind not in "iu":
                raise TypeError(f"`{argument}` must be integers, got {ids.dtype}.")
        classes, examples = classes.astype(np.int64), examples.astype(np.int64)
    if not classes.size or not examples.size:
        return
    try:
        sizes = class_sizes.take(classes)  # refuses ids beyond the last class; negative ones count from the end
    except IndexError:
        raise _no_class(classes, len(class_sizes)) from None
    # As unsigned numbers, negative ids are large ones; the shift makes -1 of a negative class id and 0 of others.
    outside = (examples | (classes >> 63)).view(np.uint64) >= sizes.view(np.uint64)
    if np.count_nonzero(outside):
        if classes.min() < 0:
            raise _no_class(classes, len(class_sizes))
        at = int(np.argmax(outside))
        found = [np.broadcast_to(array, outside.shape).flat[at] for array in (examples, classes, sizes)]
        raise IndexError(
            f"`example_ids` must lie in the class, got {found[0]} of class {found[1]}, which has {found[2]} examples."
        )


def _no_class(classes: Integers, number: int) -> IndexError:
    return IndexError(f"`class_ids` must lie in [0, {number}), got {classes.min()} to {classes.max()}.")


def group_labels(
    labels: npt.ArrayLike, class_names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], Integers, Integers | None]:
    """Group examples by label: classes in the order of their labels, examples in their own order.

    Args:
        labels: `(total,)` integers, booleans, strings or finite floats, in any order.
        class_names: names of labels 0, 1, …; `None` names a class by its label.

    Returns:
        The names of the labels that occur; `(C,)` how often each does; and `(total,)` the positions of the
        examples class by class, or `None` where `labels` are in that order already.

    Raises:
        ValueError: if `labels` have more than one axis, are neither all numbers nor all strings, are not finite, or
            are no positions in `class_names`.
    """
    found = label_array(labels)
    if len(found) and (found[1:] >= found[:-1]).all():
        starts = np.flatnonzero(np.append(True, found[1:] != found[:-1]))
        sizes = np.diff(starts, append=len(found))
        return _names_of(found[starts], class_names), sizes, None
    values, inverse = _number_labels(found)
    sizes = np.bincount(inverse, minlength=len(values)).astype(np.int64)
    return _names_of(values, class_names), sizes, _stable_order(inverse)


def label_array(labels: npt.ArrayLike) -> npt.NDArray[Any]:
    """Labels as an array `(total,)` in which different labels stay different.

    NumPy would make one label of 1 and "1", of NaN and "nan", and of integers that differ beyond 53 bits.

    Raises:
        ValueError: as `group_labels`.
    """
    found = np.asarray(labels)
    if found.ndim != 1:
        raise ValueError(f"`labels` must be one label per example, got an array of shape {found.shape}.")
    is_object = found.dtype == object
    values = found.tolist() if is_object else labels if isinstance(labels, (list, tuple)) else ()
    kinds = set(map(type, values))
    if is_object and not all(issubclass(kind, _PLAIN) for kind in kinds):
        at, missing = next((i, value) for i, value in enumerate(values) if not isinstance(value, _PLAIN))
        raise ValueError(
            f"`labels` must be integers, strings or floats, got {missing!r} among them, at position {at}; "
            "convert them, and leave examples without a label out."
        )
    if len({_family(kind) for kind in kinds}) > 1:
        first = values[0]
        other = next(value for value in values if _family(type(value)) != _family(type(first)))
        raise ValueError(
            f"`labels` must be all numbers or all strings, got {first!r} and {other!r}; convert them, and leave "
            "examples without a label out."
        )
    if kinds and all(issubclass(kind, (int, np.integer)) for kind in kinds):
        found = np.array(values) if is_object else found
        if found.dtype.kind not in "biu":  # more than 64 bits, which NumPy sorts as Python's own integers
            return np.array([int(value) for value in values], dtype=object)
    elif is_object:
        found = np.array(values)
    if found.dtype.kind not in "biufSU":
        raise ValueError(f"`labels` must be integers, strings or floats, got {found.dtype}; convert them to strings.")
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        at = int(np.argmin(np.isfinite(found)))
        raise ValueError(
            f"`labels` must be finite, got {found[at]} at position {at}; leave examples without a label out."
        )
    return found


def _family(kind: type) -> str:
    return "text" if issubclass(kind, str) else "bytes" if issubclass(kind, bytes) else "number"


def _number_labels(labels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """`np.unique(labels, return_inverse=True)`, without sorting where labels are small integers."""
    if labels.dtype.kind in "iu" and labels.size and labels.min() >= 0 and labels.max() < 2 * labels.size + 1024:
        labels = labels.astype(np.int64, copy=False)
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
    if isinstance(class_names, str) or not isinstance(class_names, Sequence | np.ndarray):
        raise TypeError(f"`class_names` must be a list of names, got {class_names!r}.")
    numbers = values.tolist()
    if numbers and (values.dtype.kind not in "biu" or numbers[0] < 0 or numbers[-1] >= len(class_names)):
        raise ValueError(
            f"with `class_names` the labels must be integers in [0, {len(class_names)}), got {numbers[0]!r} to "
            f"{numbers[-1]!r}; leave `class_names` out to name classes by their labels."
        )
    return tuple(class_names[number] for number in numbers)
