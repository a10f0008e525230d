"""Class augmentations: a transformed class is a new class, with an id of its own."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from metabridge.checks import check_number

__all__ = ["ClassAugmentation", "HorizontalFlip", "Rotation", "VerticalFlip", "expand_class_augmentations"]


class ClassAugmentation(Protocol):
    """A class augmentation: a deterministic map of images to images of the same shape.

    Its `repr` is part of the episodes' fingerprint, so it must say everything that decides the result.
    """

    def __call__(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Transform `(..., H, W, channels)` images; the result may be a view."""

    def __iter__(self) -> Iterator["ClassAugmentation"]:
        """The single augmentations this one stands for, one per new class."""


class Rotation:
    """Turn images counter-clockwise by multiples of 90 degrees; each angle makes a new class of every class.

    The usual augmentation of Omniglot (Santoro et al. 2016, arXiv 1605.06065): 1028 meta-train characters
    become 4112 classes with `Rotation([90, 180, 270])`. Multiples of 90 degrees move pixels without
    interpolation, so rotated images are exact.

    >>> list(Rotation([90, 180]))
    [Rotation(90), Rotation(180)]

    Args:
        angle: degrees, or a list of degrees, all multiples of 90 and none of 360.

    Raises:
        ValueError: for any other angle, or when called while it stands for several angles.
    """

    def __init__(self, angle: int | Sequence[int]) -> None:
        angles = tuple(angle) if isinstance(angle, Sequence) else (angle,)
        if not angles:
            raise ValueError("`angle` must hold at least one angle, got none; write for example Rotation([90, 180]).")
        for value in angles:
            check_number(value, "angle", advice="use 90, 180 or 270")
            if value % 90 or not value % 360:
                others = [each for each in angles if not each % 90 and each % 360]
                advice = f"write Rotation({others})" if others and not value % 360 else "use 90, 180 or 270"
                raise ValueError(
                    f"`angle` must be a multiple of 90 degrees and not of 360, got {value}; "
                    f"{advice} (the class itself, unturned, is always there)."
                )
        self.angles = tuple(int(value % 360) for value in angles)

    def __iter__(self) -> Iterator["Rotation"]:
        return (Rotation(angle) for angle in self.angles)

    def __call__(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Rotate `(..., H, W, channels)` images; H must equal W unless the angle is 180."""
        if len(self.angles) != 1:
            raise ValueError(f"{self!r} stands for several augmentations; call each of list(rotation) instead.")
        if images.ndim < 3:
            raise ValueError(f"`images` must be (..., H, W, channels) to be turned, got shape {images.shape}.")
        height, width = images.shape[-3:-1]
        if height != width and self.angles[0] != 180:
            raise ValueError(f"`images` must be square to turn by {self.angles[0]} degrees, got {height}×{width}.")
        return np.rot90(images, k=self.angles[0] // 90, axes=(-3, -2))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rotation) and self.angles == other.angles

    def __hash__(self) -> int:
        return hash(self.angles)

    def __repr__(self) -> str:
        return f"Rotation({self.angles[0] if len(self.angles) == 1 else list(self.angles)})"


class _Flip:
    """A mirror image along one axis of `(..., H, W, channels)` images."""

    axis: int

    def __iter__(self) -> Iterator[Self]:
        return iter((self,))

    def __call__(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Mirror `(..., H, W, channels)` images."""
        if images.ndim < 3:
            raise ValueError(f"`images` must be (..., H, W, channels) to be mirrored, got shape {images.shape}.")
        return np.flip(images, axis=self.axis)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class HorizontalFlip(_Flip):
    """Exchange left and right; the mirror image of every class is a new class."""

    axis = -2


class VerticalFlip(_Flip):
    """Exchange top and bottom; the mirror image of every class is a new class."""

    axis = -3


def expand_class_augmentations(
    augmentations: Sequence[ClassAugmentation] | None,
) -> tuple[ClassAugmentation, ...]:
    """The single augmentations of a list, in order.

    Raises:
        TypeError: if `augmentations` is not a list or tuple, or one has no `repr` of its own.
        ValueError: if one appears twice: two identical classes could meet in one task.
    """
    if augmentations is None:
        return ()
    if not isinstance(augmentations, (list, tuple)):
        raise TypeError(
            f"`class_augmentations` must be a list, got {type(augmentations).__name__}; write [{augmentations!r}]."
        )
    for augmentation in augmentations:
        if isinstance(augmentation, type) or not hasattr(augmentation, "__iter__"):
            raise TypeError(f"`class_augmentations` must hold class augmentations, got {augmentation!r}.")
    single = tuple(each for augmentation in augmentations for each in augmentation)
    for position, each in enumerate(single):
        if type(each).__repr__ is object.__repr__:  # type: ignore[comparison-overlap]
            raise TypeError(
                f"{type(each).__name__} must have a `__repr__` that says everything that decides its result: "
                "it is part of the episodes' fingerprint."
            )
        if each in single[:position]:
            raise ValueError(f"`class_augmentations` holds {each!r} twice; name every augmentation once.")
    return single
