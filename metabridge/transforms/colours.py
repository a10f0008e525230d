"""Image transforms that change values and leave pixels where they are: colour jitter, normalisation."""

import math

import numpy as np
import numpy.typing as npt

from metabridge.streams import uniforms
from metabridge.transforms.images import Elementwise, Fixed, Images, InPlace, Parameters, Shown, Words

__all__ = ["ColorJitter", "Normalize"]

_GREY = (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow and torchvision weigh red, green and blue
_MEAN_UNIT = 2.0**24
_ROUNDING = 1e-3


class ColorJitter(InPlace, Shown):
    """Change brightness, then contrast, then saturation of every image by factors of its own.

    A factor is uniform in `[max(0, 1 − v), 1 + v]`, or in a given pair. As in torchvision, brightness blends with
    black, contrast with the mean grey of the image, saturation with its grey image, and values are cut to
    [0, 1] after each; torchvision draws the order too.

    Args:
        brightness: v, or a pair of factors.
        contrast: the same.
        saturation: the same; images of one channel have none.
    """

    num_words = 3

    def __init__(
        self,
        brightness: npt.ArrayLike = 0.0,
        contrast: npt.ArrayLike = 0.0,
        saturation: npt.ArrayLike = 0.0,
    ) -> None:
        given = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self._arguments = {name: _factors(name, value) for name, value in given.items()}

    def draw(self, words: Words) -> Parameters:
        """`(n, 3)` float32 factors."""
        ranges = self._arguments.values()
        drawn = [uniforms(words[:, column], low, high) for column, (low, high) in enumerate(ranges)]
        return np.stack(drawn, axis=1).astype(np.float32)

    def apply(self, images: Images, parameters: Parameters) -> Images:
        """`(n, H, W, channels)` of the same shape, one or three channels in [0, 1]."""
        if images.shape[-1] not in (1, 3):
            raise ValueError(f"`images` must have 1 or 3 channels for {self!r}, got shape {images.shape[1:]}.")
        if images.size and (images.min() < -_ROUNDING or images.max() > 1 + _ROUNDING):
            raise ValueError(
                f"`images` must have values in [0, 1] for {self!r}, got {images.min():.3g} to {images.max():.3g}; put "
                "Normalize after it."
            )
        brightness, contrast, saturation = parameters.T[:, :, None, None, None]
        changes = [low != 1 or high != 1 for low, high in self._arguments.values()]
        if changes[0]:
            images = np.clip(images * brightness, 0, 1)
        if changes[1]:
            images = _blend(images, _mean(_grey(images)), contrast)
        if changes[2] and images.shape[-1] == 3:
            images = _blend(images, _grey(images), saturation)
        return images


def _blend(images: Images, other: Images, factor: Images) -> Images:
    """`factor · images + (1 − factor) · other`, cut to [0, 1]."""
    return np.clip(images * factor + other * (np.float32(1) - factor), 0, 1)


def _grey(images: Images) -> Images:
    """`(n, H, W, 1)`."""
    if images.shape[-1] == 1:
        return images
    red, green, blue = (images[..., channel, None] * np.float32(_GREY[channel]) for channel in range(3))
    return red + green + blue


def _mean(images: Images) -> Images:
    """`(n, 1, 1, 1)` means of grey images, summed as integers: a sum of floats would depend on its order."""
    whole = np.rint(images.astype(np.float64) * _MEAN_UNIT).astype(np.int64)
    total = whole.sum(axis=(1, 2, 3), keepdims=True)
    return (total / (_MEAN_UNIT * images[0].size)).astype(np.float32) if len(images) else images[:, :1, :1]


class Normalize(Elementwise, Fixed, Shown):
    """`(x − mean) / std` in every channel of an image, or every feature of a vector.

    Args:
        mean: one number, or one for every channel or feature.
        std: the same, positive.
    """

    def __init__(self, mean: npt.ArrayLike, std: npt.ArrayLike) -> None:
        self._arguments = {"mean": _numbers("mean", mean), "std": _numbers("std", std)}
        if min(self._arguments["std"]) <= 0:
            raise ValueError(f"`std` must be positive, got {std!r}.")

    def apply(self, images: Images, parameters: Parameters) -> Images:
        """`(n, …, channels)` of the same shape."""
        mean, std = (np.array(each, dtype=np.float32) for each in self._arguments.values())
        for name, values in self._arguments.items():
            if len(values) not in (1, images.shape[-1]):
                raise ValueError(
                    f"`{name}` must be one number or one for each of {images.shape[-1]} channels, got {len(values)}."
                )
        return (images - mean) / std


def _factors(name: str, value: npt.ArrayLike) -> tuple[float, float]:
    message = f"`{name}` must be a number of at least 0, or a pair of factors (low, high), got {value!r}."
    try:
        given = np.asarray(value)
    except ValueError:  # for lists of lists of different length
        raise ValueError(message) from None
    if given.dtype.kind not in "iuf":
        raise ValueError(message)
    factors = given.astype(np.float64)
    if factors.shape == () and factors >= 0:
        factors = np.array([max(0.0, 1.0 - factors), 1.0 + factors])
    if factors.shape != (2,) or not 0 <= factors[0] <= factors[1] < math.inf:
        raise ValueError(message)
    return float(factors[0]), float(factors[1])


def _numbers(name: str, value: npt.ArrayLike) -> tuple[float, ...]:
    try:
        numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        numbers = np.empty(0)
    if numbers.ndim != 1 or not numbers.size or not np.isfinite(numbers).all():
        raise ValueError(f"`{name}` must be one finite number, or one for every channel, got {value!r}.")
    return tuple(numbers.tolist())
