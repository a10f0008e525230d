"""Episode batches: the arrays of a batch of episodes, framework-neutral."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.plans import EpisodePlan
from metabridge.sources.base import ClassSource
from metabridge.transforms.classes import ClassAugmentation

__all__ = ["WHOLE", "EpisodeBatch", "Split", "arrays_digest", "gather_batch", "to_float32"]

Split = tuple[npt.NDArray[np.float32], npt.NDArray[Any]]

WHOLE = "all"
"""Name of the only split of a meta-dataset without a splitter."""


class EpisodeBatch(Mapping[str, Split]):
    """A batch of B episodes: a mapping from split name to `(inputs, targets)`.

    For N-way classification `inputs` is `(B, N·k, H, W, channels)` float32 in [0, 1] (`(B, N·k, features)` for
    vectors) and `targets` is `(B, N·k)` int64 in [0, N), both grouped by class in the task's class order.
    For regression both are `(B, k, 1)` float32.

    Attributes:
        plan: the integers that decided these arrays.
    """

    def __init__(self, plan: EpisodePlan, splits: Mapping[str, Split]) -> None:
        self.plan = plan
        self._splits = dict(splits)

    def __getitem__(self, name: str) -> Split:
        try:
            return self._splits[name]
        except KeyError:
            raise KeyError(f"no split {name!r}; this batch has {', '.join(map(repr, self._splits))}.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {inputs.shape} → {targets.shape}" for name, (inputs, targets) in self.items())
        return f"EpisodeBatch({len(self.plan)} episodes; {shapes})"

    def digest(self) -> str:
        """Hexadecimal BLAKE2b over names, shapes, dtypes and bytes of all arrays."""
        return arrays_digest({name: self[name] for name in self})


def arrays_digest(splits: Mapping[str, tuple[npt.NDArray[Any], ...]]) -> str:
    """Hexadecimal BLAKE2b over names, shapes, dtypes and bytes of the arrays of every split."""
    state = hashlib.blake2b(digest_size=16)
    for name, arrays in splits.items():
        for array in arrays:
            little = array.dtype.newbyteorder("<")
            state.update(f"{name} {array.shape} {little.str}\n".encode())
            state.update(np.ascontiguousarray(array, dtype=little).data)
    return state.hexdigest()


def to_float32(examples: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Model inputs of stored examples: uint8 images become `x / 255` computed in float32, features are cast."""
    if examples.dtype != np.uint8:
        return examples.astype(np.float32)
    # One pass: the conversion happens in cache-sized pieces inside the division.
    return np.divide(examples, np.float32(255), dtype=np.float32)


def gather_batch(
    plan: EpisodePlan, source: ClassSource, augmentations: tuple[ClassAugmentation, ...] = ()
) -> EpisodeBatch:
    """Copy the examples that `plan` names out of `source`.

    Class id `c` stands for class `c % C` of the source under augmentation number `c // C` (0: none).
    """
    number = len(source.class_sizes)
    class_ids = (plan.classes % number)[:, :, None]
    augmentation_ids = plan.classes // number
    splits = {}
    for name, columns in plan.split_columns():
        example_ids = plan.examples[:, :, columns]
        images = source.gather(class_ids, example_ids)  # (B, N, k, *example_shape)
        for position, augmentation in enumerate(augmentations, start=1):
            chosen = augmentation_ids == position
            if chosen.any():
                images[chosen] = augmentation(images[chosen])
        count, ways, shots = example_ids.shape
        inputs = to_float32(images.reshape(count, ways * shots, *source.example_shape))
        splits[name] = (inputs, np.repeat(plan.labels, shots, axis=1))
    return EpisodeBatch(plan, splits)
