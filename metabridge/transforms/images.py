"""Image transforms in two steps: draw the parameters from stream words, then apply them.

Only `draw` sees randomness, and its words come from the episode's own stream: an augmented episode is as much a
function of (seed, index) as a plain one, and both backends get the same pixels. `apply` uses additions,
multiplications, divisions and roundings of floats one by one, in a fixed order, and sums of integers, so its
results are the same to the last bit on every machine.
"""

import math
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = [
    "IGNORED",
    "Elementwise",
    "Fixed",
    "ImageTransform",
    "Images",
    "InPlace",
    "MaskTransform",
    "Masks",
    "Parameters",
    "Shown",
    "Words",
    "advice_on_preparation",
    "expand_transforms",
    "prepares",
    "transform_images",
    "transform_masks",
]

Words = npt.NDArray[np.uint64]
Images = npt.NDArray[np.float32]
Masks = npt.NDArray[np.uint8]
Parameters = npt.NDArray[Any]

IGNORED = 255
"""Value in a mask of pixels that count neither as object nor as background, such as those a crop added."""

_PIECE = 1 << 18  # floats that stay in a processor's cache from one operation to the next: 2 to 3 times faster


@runtime_checkable
class ImageTransform(Protocol):
    """An image transform. Its `repr` is part of the episodes' fingerprint: it must say everything."""

    @property
    def num_words(self) -> int:
        """Stream words that the parameters of one image take; 0 if nothing is random."""

    def draw(self, words: Words) -> Parameters:
        """`(n, …)` parameters of n images, from `(n, num_words)` words: a pure function."""

    def apply(self, images: Images, parameters: Parameters) -> Images:
        """Transform `(n, H, W, channels)` float32 images by their parameters; may write into `images`."""


@runtime_checkable
class MaskTransform(ImageTransform, Protocol):
    """An image transform that takes the masks of a segmentation with it."""

    def apply_to_masks(self, masks: Masks, parameters: Parameters) -> Masks:
        """Transform `(n, H, W)` masks, 0, 1 or `IGNORED`, as `apply` does the images; new values do not arise."""


class InPlace:
    """A transform that leaves every pixel where it is, and so masks as they are."""

    def apply_to_masks(self, masks: Masks, parameters: Parameters) -> Masks:
        """The same masks."""
        return masks


class Elementwise(InPlace):
    """A transform of every number by itself and its channel: of feature vectors as well as of images."""


class Fixed:
    """A transform without anything random."""

    num_words = 0

    def draw(self, words: Words) -> Parameters:
        """No parameters: `(n, 0)`."""
        return np.zeros((len(words), 0))


class Shown:
    """The constructor's arguments, kept under their names in `_arguments`, are the `repr` and the identity."""

    _arguments: dict[str, Any]

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self._arguments.items())
        return f"{type(self).__name__}({arguments})"


def expand_transforms(transform: ImageTransform | Sequence[ImageTransform] | None) -> tuple[ImageTransform, ...]:
    """The image transforms of a list, in order; one alone is a list of one.

    Raises:
        TypeError: for anything without `num_words`, `draw` and `apply`, such as a torchvision transform; the message
            says what to write instead.
    """
    if transform is None:
        return ()
    several = tuple(transform) if isinstance(transform, (list, tuple)) else (transform,)
    for each in several:
        if isinstance(each, type) or not isinstance(each, ImageTransform):
            raise TypeError(
                f"`transform` must be made of image transforms of metabridge.transforms, got {each!r}; "
                f"{advice_on_preparation(each)}"
            )
        if type(each).__repr__ is object.__repr__:
            raise TypeError(
                f"{type(each).__name__} must have a `__repr__` that says everything that decides its result: "
                "it is part of the episodes' fingerprint."
            )
    return several


_PREPARING = ("Resize", "ToTensor", "PILToTensor", "ToImage", "ToDtype", "ConvertImageDtype", "Grayscale")


def prepares(transform: object) -> bool:
    """Whether a transform of torchvision makes a float tensor of an image file, which a stored image is already."""
    steps = getattr(transform, "transforms", None) or [transform]
    return any(type(step).__name__ in ("ToTensor", "PILToTensor", "ToImage") for step in steps)


def advice_on_preparation(transform: object) -> str:
    """Advice for a message: the line that replaces a transform of torchvision."""
    steps = [type(step).__name__ for step in getattr(transform, "transforms", None) or [transform]]
    others = [name for name in steps if name not in _PREPARING]
    if others != steps:
        names = ", ".join(name for name in steps if name in _PREPARING)
        line = "leave `transform` out"
        if others:
            line = f"write transform=[{', '.join(f'{name}(…)' for name in others)}] with those of metabridge.transforms"
        return f"images are resized when they are stored and arrive as floats in [0, 1], so without {names} {line}."
    return "a transform of torchvision is an argument of the torch loader: BatchMetaDataLoader(dataset, transform=…)."


def transform_images(transforms: Sequence[ImageTransform], images: Images, words: Sequence[Words]) -> Images:
    """Draw and apply one transform after another, a few images at a time.

    Args:
        transforms: the transforms.
        images: `(n, H, W, channels)` float32; may be written into.
        words: `(n, num_words)` for each transform.
    """
    if not transforms:
        return images
    count = max(1, _PIECE // max(1, math.prod(images.shape[1:])))
    pieces = []
    for first in range(0, max(1, len(images)), count):
        piece = images[first : first + count]
        for transform, each in zip(transforms, words, strict=True):
            piece = transform.apply(piece, transform.draw(each[first : first + count]))
        pieces.append(piece)
    return np.concatenate(pieces).astype(np.float32, copy=False)


def transform_masks(transforms: Sequence[MaskTransform], masks: Masks, words: Sequence[Words]) -> Masks:
    """The masks `(n, H, W)` of images that `transform_images` transforms with the same words."""
    for transform, each in zip(transforms, words, strict=True):
        masks = transform.apply_to_masks(masks, transform.draw(each))
    return masks
