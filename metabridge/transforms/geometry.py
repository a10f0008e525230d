"""Image transforms that move pixels: resizing, crops, mirror images."""

import math
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from metabridge.checks import check_count, check_size, is_number, require
from metabridge.streams import bounded_integers, uniforms
from metabridge.transforms.images import IGNORED, Fixed, Images, Masks, Parameters, Shown, Words

__all__ = ["CenterCrop", "RandomCrop", "RandomHorizontalFlip", "Resize", "nearest_positions"]

S = TypeVar("S", bound=np.generic)


class Resize(Fixed, Shown):
    """Resize by a triangle filter that is as wide as the reduction: bilinear, and without aliasing when shrinking.

    As Pillow's and torchvision's bilinear resizing with antialiasing, up to rounding.

    Args:
        size: `(height, width)`, or the side of a square. Proportions are not kept.
    """

    def __init__(self, size: int | tuple[int, int]) -> None:
        self.size = check_size(size, "size")
        self._arguments = {"size": self.size}

    def apply(self, images: Images, parameters: Parameters) -> Images:
        """`(n, H, W, channels)` → `(n, *size, channels)`."""
        for axis, length in zip((1, 2), self.size, strict=True):
            if images.shape[axis] != length:
                images = _resize_axis(images, axis, length)
        return images

    def apply_to_masks(self, masks: Masks, parameters: Parameters) -> Masks:
        """`(n, H, W)` → `(n, *size)`, the nearest pixel each."""
        for axis, length in zip((1, 2), self.size, strict=True):
            masks = masks.take(nearest_positions(masks.shape[axis], length), axis=axis)
        return masks


def nearest_positions(old: int, new: int) -> npt.NDArray[np.int64]:
    """`(new,)` which of `old` pixels is under the centre of each new one."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


def _resize_axis(images: Images, axis: int, length: int) -> Images:
    first, weights = _filter_taps(images.shape[axis], length)
    shape = [1] * images.ndim
    shape[axis] = length
    result: Images | None = None
    for tap in range(weights.shape[1]):  # one tap after another: the order of additions is part of the result
        positions = np.minimum(first + tap, images.shape[axis] - 1)
        part = images.take(positions, axis=axis) * weights[:, tap].reshape(shape)
        result = part if result is None else np.add(result, part, out=result)
    assert result is not None
    return result


def _filter_taps(old: int, new: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """`(new,)` first source pixel of every pixel, `(new, taps)` weights that sum to 1 (0 beyond the image)."""
    scale = old / new
    reach = max(scale, 1.0)
    centres = (np.arange(new) + 0.5) * scale
    first = np.maximum(np.floor(centres - reach + 0.5), 0.0)
    positions = first[:, None] + np.arange(math.ceil(reach) * 2 + 1)
    weights = np.maximum(1.0 - np.abs((positions + 0.5 - centres[:, None]) / reach), 0.0)
    weights[positions >= old] = 0.0
    total = weights[:, 0].copy()
    for tap in range(1, weights.shape[1]):
        total += weights[:, tap]
    return first.astype(np.int64), (weights / total[:, None]).astype(np.float32)


class CenterCrop(Fixed, Shown):
    """The middle of every image.

    Args:
        size: `(height, width)`, or the side of a square; no larger than the images.
    """

    def __init__(self, size: int | tuple[int, int]) -> None:
        self.size = check_size(size, "size")
        self._arguments = {"size": self.size}

    def apply(self, images: Images, parameters: Parameters) -> Images:
        """`(n, H, W, channels)` → `(n, *size, channels)`; of an odd margin the smaller half is before."""
        return self._middle(images)

    def apply_to_masks(self, masks: Masks, parameters: Parameters) -> Masks:
        """`(n, H, W)` → `(n, *size)`, the same part."""
        return self._middle(masks)

    def _middle(self, images: npt.NDArray[S]) -> npt.NDArray[S]:
        height, width = self.size
        top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
        _check_fits(self, images, 0)
        return images[:, top : top + height, left : left + width]


class RandomCrop(Shown):
    """A part of every image, at a place of its own.

    Args:
        size: `(height, width)`, or the side of a square.
        padding: pixels of value 0 added on every side before.
    """

    num_words = 2

    def __init__(self, size: int | tuple[int, int], padding: int = 0) -> None:
        self.size = check_size(size, "size")
        self.padding = check_count(padding, "padding", least=0)
        self._arguments = {"size": self.size, "padding": self.padding}

    def draw(self, words: Words) -> Parameters:
        """`(n, 2)` words: where an image is cut depends on its size as well."""
        return words

    def apply(self, images: Images, parameters: Parameters) -> Images:
        """`(n, H, W, channels)` → `(n, *size, channels)`; every place is equally likely."""
        return self._cut(images, parameters, 0)

    def apply_to_masks(self, masks: Masks, parameters: Parameters) -> Masks:
        """`(n, H, W)` → `(n, *size)`, the same places; what padding adds is `IGNORED`."""
        return self._cut(masks[..., None], parameters, IGNORED)[..., 0]

    def _cut(self, images: npt.NDArray[S], parameters: Parameters, fill: int) -> npt.NDArray[S]:
        _check_fits(self, images, self.padding)
        margin = (self.padding, self.padding)
        padded = np.pad(images, ((0, 0), margin, margin, (0, 0)), constant_values=fill)
        tops = bounded_integers(parameters[:, 0], padded.shape[1] - self.size[0] + 1)
        lefts = bounded_integers(parameters[:, 1], padded.shape[2] - self.size[1] + 1)
        height, width = self.size
        cropped = np.empty((len(images), height, width, images.shape[3]), dtype=images.dtype)
        for image, top, left, crop in zip(padded, tops.tolist(), lefts.tolist(), cropped, strict=True):
            crop[...] = image[top : top + height, left : left + width]  # 5 times faster than one fancy index
        return cropped


class RandomHorizontalFlip(Shown):
    """Exchange left and right in some images. (As a class augmentation, `HorizontalFlip` makes new classes.)

    Args:
        p: share of the images.
    """

    num_words = 1

    def __init__(self, p: float = 0.5) -> None:
        require(is_number(p) and 0 <= p <= 1, "p", "a number in [0, 1]", p)
        self.p = float(p)
        self._arguments = {"p": self.p}

    def draw(self, words: Words) -> Parameters:
        """`(n,)` which images are mirrored."""
        return uniforms(words[:, 0]) < self.p

    def apply(self, images: Images, parameters: Parameters) -> Images:
        """`(n, H, W, channels)` of the same shape."""
        images[parameters] = images[parameters][:, :, ::-1]
        return images

    def apply_to_masks(self, masks: Masks, parameters: Parameters) -> Masks:
        """`(n, H, W)` of the same shape, the same ones mirrored."""
        masks[parameters] = masks[parameters][:, :, ::-1]
        return masks


def _check_fits(transform: CenterCrop | RandomCrop, images: npt.NDArray[Any], padding: int) -> None:
    height, width = (side + 2 * padding for side in images.shape[1:3])
    if transform.size[0] > height or transform.size[1] > width:
        raise ValueError(f"`size` must be at most {height}×{width}, the images' with padding, got {transform!r}.")
