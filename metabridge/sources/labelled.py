"""A class source over any labelled map-style dataset: torchvision's, Hugging Face's, or a list of pairs."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.checks import check_choice
from metabridge.digests import Digest
from metabridge.sources.images import ImagePreparation
from metabridge.sources.lazy import LazySource
from metabridge.sources.tables import group_labels, label_array

__all__ = ["LabelledSource", "labels_of"]

_LABEL_ATTRIBUTES = ("targets", "_labels", "labels")


class LabelledSource(LazySource):
    """The examples of a dataset with `len(dataset)` and `dataset[i]`, grouped by label.

    `dataset[i]` is a pair `(image, label)`, or a dictionary with a column for each, as Hugging Face's. Images
    may be Pillow images, arrays `(H, W)` or `(H, W, C)`, or tensors `(C, H, W)`; floats in [0, 1] are rounded to
    8 bits. Vectors of floats are features. Opening reads the first example and no other, unless labels must be
    searched (see `labels_of`).

    >>> import numpy as np
    >>> pairs = [(np.full((8, 8), i, np.uint8), "odd" if i % 2 else "even") for i in range(40)]
    >>> LabelledSource(pairs, labels=[label for _, label in pairs])
    LabelledSource(2 classes, 40 examples of shape (8, 8, 1), uint8)

    Args:
        dataset: the dataset. A random transform inside it would make reading an example twice give two images:
            leave it out, and pass `transform` to the meta-dataset.
        labels: `(total,)` integers, booleans, strings or finite floats in the dataset's order; `None` takes those of
            the dataset.
        class_names: names of labels 0, 1, …; `None` takes the dataset's (its column's `names`, or its `classes`), or
            else names a class by its label. With `labels`, the dataset's names are taken if these are the dataset's
            own labels; where that cannot be seen without decoding, if they use every name.
        image_column: where an example is a dictionary, the name of its image.
        label_column: the same for its label.
        resize: `(height, width)` or the side of a square; `None` requires one size.
        mode: `"L"`, `"RGB"` or `"RGBA"`, to which images are converted; `None` requires one of these.
        identity: words that stand for the content, such as a dataset's name and revision. With them the
            fingerprint is of `identity`, names, sizes, labels, `mode` and `resize`; without them it is of every
            example, which are all read once when it is asked for.
        progress: show a bar while labels are searched.

    Raises:
        TypeError: if `dataset` has no length, or holds neither images nor features.
        ValueError: if there is no label per example, −1 stands for a missing one, a column is missing, or the first
            image is not as required.
    """

    def __init__(
        self,
        dataset: Any,
        labels: npt.ArrayLike | None = None,
        class_names: Sequence[str] | None = None,
        *,
        image_column: str = "image",
        label_column: str = "label",
        resize: int | tuple[int, int] | None = None,
        mode: str | None = None,
        identity: str | None = None,
        progress: bool = True,
    ) -> None:
        if isinstance(dataset, Mapping):
            raise TypeError(
                f"`dataset` must be one dataset, got a mapping of {', '.join(map(repr, dataset))}; pass one of "
                f"them, for example dataset[{next(iter(dataset), 'train')!r}]."
            )
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise TypeError(
                f"`dataset` must have len(dataset) and dataset[i], got {type(dataset).__name__}; "
                "make a list of what it yields."
            )
        if len(dataset) == 0:
            raise ValueError("`dataset` must hold at least one example, got none.")
        self.dataset = dataset
        self.identity = identity
        self.preparation = ImagePreparation.of(mode, resize)
        self._image_column = image_column
        found = labels_of(dataset, label_column, progress) if labels is None else label_array(labels)
        if class_names is None:
            _check_marked(found, _dataset_names(dataset, label_column))
            class_names = _class_names(dataset, label_column, found, are_own=labels is None)
        names, sizes, self._order = group_labels(found, class_names)
        if int(sizes.sum()) != len(dataset):
            raise ValueError(
                f"`labels` must have one entry per example, got {int(sizes.sum())} for {len(dataset)} examples."
            )
        first = self._example(0)
        super().__init__(sizes, names, first.shape, first.dtype)

    def read(self, row: int) -> npt.NDArray[Any]:
        """The example at this row of the table."""
        return self._example(self._index(row))

    def where(self, row: int) -> str:
        """The example of the dataset behind a row, for messages."""
        return f"`dataset[{self._index(row)}]`"

    def _index(self, row: int) -> int:
        """Position in the dataset of a row of the table."""
        return row if self._order is None else int(self._order[row])

    def _example(self, index: int) -> npt.NDArray[Any]:
        try:
            return self.preparation(_field(self.dataset[index], 0, self._image_column))
        except ValueError as error:
            raise ValueError(f"`dataset[{index}]`: {error}") from None

    def compute_fingerprint(self) -> str:
        """Hexadecimal BLAKE2b of names, sizes, shape, dtype and every example, or of what `identity` says."""
        if self.identity is None:
            return super().compute_fingerprint()
        digest = Digest(f"metabridge labelled dataset\n{self.preparation}\n{self.example_shape}\n")
        digest.add_texts((self.dtype.str, self.identity, *self.class_names))
        for start, size in zip(self.class_starts.tolist(), self.class_sizes.tolist(), strict=True):
            rows = np.arange(start, start + size)
            digest.add(f"{size}\n").add_array(rows if self._order is None else self._order[rows], "<i8")
        return digest.hexadecimal()


def labels_of(dataset: Any, label_column: str = "label", progress: bool = True) -> npt.NDArray[Any]:
    """The labels of a dataset, `(total,)`, without decoding an image where that is possible.

    A Hugging Face dataset's column; the part that a `torch.utils.data.Subset` takes of another dataset's labels;
    the attribute `targets`, `_labels` or `labels`, as torchvision's datasets have; or else, one after another,
    the labels of all examples, which decodes their images.

    Args:
        dataset: the dataset.
        label_column: where an example is a dictionary, the name of its label.
        progress: show a bar while going through all examples.

    Raises:
        ValueError: if a column or a label is missing.
    """
    found = _labels_at_hand(dataset, label_column)
    return _scan(dataset, label_column, progress) if found is None else found


def _labels_at_hand(dataset: Any, label_column: str) -> npt.NDArray[Any] | None:
    """The labels of a dataset that can be read without decoding an image."""
    if hasattr(dataset, "column_names"):
        check_choice(label_column, "label_column", dataset.column_names)
        return label_array(dataset[label_column][:])
    if hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        whole = _labels_at_hand(dataset.dataset, label_column)
        return None if whole is None else whole[np.asarray(dataset.indices)]
    for name in _LABEL_ATTRIBUTES:
        found = getattr(dataset, name, None)
        if found is not None and not callable(found) and _is_one_each(found, len(dataset)):
            return label_array(found)
    return None


def _is_one_each(found: Any, number: int) -> bool:
    try:
        return np.shape(found) == (number,)
    except ValueError:  # lists of different lengths
        return False


def _scan(dataset: Any, label_column: str, progress: bool) -> npt.NDArray[Any]:
    from tqdm import tqdm

    rows = tqdm(range(len(dataset)), "reading labels", unit="example", disable=not progress, file=sys.stderr)
    return label_array([_plain(_field(dataset[row], 1, label_column)) for row in rows])


def _plain(label: Any) -> Any:
    """A label as Python's own value: tensors and arrays of one element hold one."""
    return label.item() if hasattr(label, "item") else label


def _field(example: Any, position: int, column: str) -> Any:
    """The image or the label of an example."""
    if isinstance(example, Mapping):
        check_choice(column, ("image_column", "label_column")[position], example)
        return example[column]
    if not isinstance(example, Sequence) or isinstance(example, (str, bytes)) or len(example) < 2:
        if position == 0:
            return example  # with labels given, a dataset of images alone will do
        raise ValueError(
            f"an example must be a pair (image, label) or a dictionary, got {type(example).__name__}; pass `labels`."
        )
    return example[position]


def _dataset_names(dataset: Any, label_column: str) -> Sequence[str] | None:
    """The list of names that a dataset has for its labels, if it has one."""
    while hasattr(dataset, "dataset") and hasattr(dataset, "indices"):
        dataset = dataset.dataset
    features = getattr(dataset, "features", None)
    names = getattr(features.get(label_column), "names", None) if isinstance(features, Mapping) else None
    names = getattr(dataset, "classes", None) if names is None else names
    if not isinstance(names, Sequence) or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        return None
    return names


def _class_names(dataset: Any, label_column: str, labels: npt.NDArray[Any], are_own: bool) -> Sequence[str] | None:
    """The names that a dataset gives these labels, if they are positions in its list and its own."""
    names = _dataset_names(dataset, label_column)
    if names is None or not len(labels) or labels.dtype.kind not in "biu":
        return None
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(names):
        return None
    return names if are_own or _are_own(dataset, label_column, labels, len(names)) else None


def _are_own(dataset: Any, label_column: str, labels: npt.NDArray[Any], number: int) -> bool:
    """Whether given labels are the dataset's own, or, where that would need decoding, use each of `number` names."""
    column_names = getattr(dataset, "column_names", None)
    own = None
    if column_names is None or label_column in column_names:
        own = _labels_at_hand(dataset, label_column)
    if own is not None:
        return np.array_equal(own, labels)
    return len(np.unique(labels)) == number


def _check_marked(labels: npt.NDArray[Any], names: Sequence[str] | None) -> None:
    """Refuse −1 where it marks examples without a label, as torchvision's and Hugging Face's datasets do."""
    if labels.dtype.kind != "i" or not len(labels) or labels.min() != -1:
        return
    marked = np.flatnonzero(labels == -1)
    if names is not None or (labels == 0).any():
        raise ValueError(
            f"`labels` must not be −1, which marks an example without a label, got {len(marked)} of them, the first at "
            f"position {marked[0]}; leave these examples out, or make a class of them with labels of strings."
        )
