"""A class source over a dataset of datasets, one for each class, as Torchmeta's `ClassDataset` is."""

from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.digests import Digest
from metabridge.sources.images import ImagePreparation
from metabridge.sources.lazy import LazySource

__all__ = ["ClassDatasetSource"]


class ClassDatasetSource(LazySource):
    """The examples of `dataset[0]`, `dataset[1]`, …: one map-style dataset for each class.

    `dataset[c]` has a length, and `dataset[c][i]` is a pair `(image, target)` or an image alone. Targets do nothing.
    Images may be Pillow images, arrays `(H, W)` or `(H, W, C)`, or tensors `(C, H, W)`; floats in [0, 1] are rounded to
    8 bits. Vectors of floats are features. Opening asks every class for its length and reads one example.

    >>> import numpy as np
    >>> shades = [[(np.full((8, 8), 10 * c + i, np.uint8), f"shade {c}") for i in range(20)] for c in range(6)]
    >>> ClassDatasetSource(shades)
    ClassDatasetSource(6 classes, 120 examples of shape (8, 8, 1), uint8)

    Args:
        dataset: the classes. There are `dataset.num_classes` of them, without that attribute `len(dataset)`; so the
            augmented classes of Torchmeta's `ClassDataset` are left to the meta-dataset. If it has as many distinct
            strings in `labels`, these are the names of the classes, else their numbers are. A random transform inside
            it would make reading an example twice give two images.
        resize: `(height, width)` or the side of a square; `None` requires one size.
        mode: `"L"`, `"RGB"` or `"RGBA"`, to which images are converted; `None` requires one of these.
        identity: words that stand for the content, such as a dataset's name and version. With them the fingerprint is
            of `identity`, names, sizes, `mode` and `resize`; without them it is of every example, which are all read
            once when it is asked for.

    Raises:
        TypeError: if `dataset` or one of its classes has no length or cannot be indexed.
        ValueError: if there is no class, one is empty, or the first example is not as required.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        resize: int | tuple[int, int] | None = None,
        mode: str | None = None,
        identity: str | None = None,
    ) -> None:
        self.dataset = dataset
        self.identity = identity
        self.preparation = ImagePreparation.of(mode, resize)
        self._classes: dict[int, Any] = {}
        _check_readable(dataset, "dataset", "num_classes")
        number = int(getattr(dataset, "num_classes", None) or len(dataset))
        for class_id in range(number):
            _check_readable(self._class(class_id), f"dataset[{class_id}]")
        sizes = np.array([len(self._class(class_id)) for class_id in range(number)], dtype=np.int64)
        self._ends = np.cumsum(sizes)
        if not number or not sizes.all():
            empty = f"dataset[{int(sizes.argmin())}] has none" if number else "there is no class"
            raise ValueError(f"`dataset` must have at least one example in every class, {empty}.")
        first = self.read(0)
        super().__init__(sizes, _names(dataset, number), first.shape, first.dtype)

    def read(self, row: int) -> npt.NDArray[Any]:
        """The example at this row of the table."""
        class_id, position = self._place(row)
        try:
            example = self._class(class_id)[position]
            is_pair = isinstance(example, (tuple, list)) and len(example) == 2
            return self.preparation(example[0] if is_pair else example)
        except ValueError as error:
            raise ValueError(f"{self.where(row)}: {error}") from None

    def where(self, row: int) -> str:
        """The example of the dataset behind a row, for messages."""
        class_id, position = self._place(row)
        return f"`dataset[{class_id}][{position}]`"

    def _place(self, row: int) -> tuple[int, int]:
        """Class and position in it of a row of the table."""
        class_id = int(np.searchsorted(self._ends, row, side="right"))
        return class_id, row - (int(self._ends[class_id - 1]) if class_id else 0)

    def _class(self, class_id: int) -> Any:
        """The dataset of a class, made once in every process."""
        if class_id not in self._classes:
            self._classes[class_id] = self.dataset[class_id]
        return self._classes[class_id]

    def compute_fingerprint(self) -> str:
        """Hexadecimal BLAKE2b of names, sizes, shape, dtype and every example, or of what `identity` says."""
        if self.identity is None:
            return super().compute_fingerprint()
        digest = Digest(f"metabridge dataset of classes\n{self.preparation}\n{self.example_shape}\n")
        digest.add_texts((self.dtype.str, self.identity, *self.class_names))
        return digest.add_array(np.stack([self.class_starts, self.class_sizes]), "<i8").hexadecimal()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_classes": {}}


def _check_readable(dataset: Any, what: str, length: str = "__len__") -> None:
    if not hasattr(dataset, "__getitem__") or not (hasattr(dataset, "__len__") or hasattr(dataset, length)):
        raise TypeError(
            f"`{what}` must have a length and be indexed by numbers, got {type(dataset).__name__}; for one dataset of "
            "(image, label) use LabelledSource."
        )


def _names(dataset: Any, number: int) -> list[str]:
    labels = getattr(dataset, "labels", None)
    labels = list(labels) if isinstance(labels, (list, tuple)) else []
    named = len(labels) == number == len({label for label in labels if isinstance(label, str)})
    return labels if named else [str(class_id) for class_id in range(number)]
