"""An image, whatever its form, as a uint8 `(H, W, channels)` array of one size and mode."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from metabridge.checks import check_choice, check_size

__all__ = ["ImagePreparation"]

_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
_TWO_VALUED = "1"  # Pillow's mode of 1-bit images, which become grey ones of 0 and 255
_MODES = {channels: mode for mode, channels in _CHANNELS.items()}


@dataclass(frozen=True)
class ImagePreparation:
    """How images are brought to one form.

    Pillow images are taken as they are stored: the EXIF orientation is ignored, and `convert` drops transparency
    without blending. Images of 1 bit count as grey.

    Attributes:
        mode: `"L"` (grey), `"RGB"` or `"RGBA"`, to which Pillow images are converted; `None` keeps these three
            and refuses others.
        size: `(height, width)`, to which images are resized by Pillow's Lanczos filter, whatever their
            proportions; `None` keeps them.
    """

    mode: str | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.mode is not None:
            check_choice(self.mode, "mode", _CHANNELS)

    @classmethod
    def of(cls, mode: str | None, resize: int | tuple[int, int] | None) -> Self:
        """From what a user may write: an integer `resize` stands for a square.

        Raises:
            ValueError: for another mode, or what is no size.
        """
        return cls(mode, None if resize is None else check_size(resize, "resize"))

    def shape(self, mode: str, size: tuple[int, int]) -> tuple[int, int, int]:
        """Shape of an image of this Pillow mode and `(height, width)` once it is prepared."""
        self._check_mode(mode)
        return (*(self.size or size), _CHANNELS[self.mode or _grey(mode)])

    def _check_mode(self, mode: str) -> None:
        if self.mode is None and _grey(mode) not in _CHANNELS:
            raise ValueError(f"images must be of mode 'L', 'RGB' or 'RGBA', got {mode!r}; pass for example mode='RGB'.")

    def from_pillow(self, image: Any) -> npt.NDArray[np.uint8]:
        """A Pillow image as an array."""
        from PIL import Image  # 0.1 s to import, and not needed for arrays

        self._check_mode(image.mode)
        if image.mode.startswith(("I", "F")):
            raise ValueError(
                f"an image of mode {image.mode!r} holds more than 8 bits, which Pillow would cut off; "
                "scale it to 8 bits first."
            )
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # or else Pillow warns that the transparency is dropped, as it shall be
        mode = self.mode or _grey(image.mode)
        if image.mode != mode:
            image = image.convert(mode)
        if self.size is not None and image.size != self.size[::-1]:
            image = image.resize(self.size[::-1], Image.Resampling.LANCZOS)
        pixels = np.asarray(image)
        return pixels[:, :, np.newaxis] if pixels.ndim == 2 else pixels

    def __call__(self, value: Any) -> npt.NDArray[Any]:
        """A Pillow image, a `(H, W)` or `(H, W, C)` array, a `(C, H, W)` tensor; or a vector of features.

        Float images must lie in [0, 1] and are rounded to 8 bits, which undoes torchvision's `ToTensor`.

        Raises:
            ValueError: for what is none of these.
        """
        if hasattr(value, "getbands") and hasattr(value, "convert"):
            return self.from_pillow(value)
        if hasattr(value, "detach"):  # a tensor of torch
            value = value.detach().cpu().numpy()
            if value.ndim == 3 and value.shape[0] not in _MODES and value.shape[-1] in _MODES:
                raise ValueError(
                    f"a tensor must be an image (C, H, W), as torchvision's are, got {value.shape}, which looks like "
                    "(H, W, C); permute it, or make it an array with .numpy()."
                )
            value = np.moveaxis(value, 0, -1) if value.ndim == 3 else value
        array = np.asarray(value)
        if array.ndim < 2:
            return array
        pixels = _eight_bits(array[:, :, np.newaxis] if array.ndim == 2 else array)
        if self.size in (None, pixels.shape[:2]) and self.mode in (None, _MODES.get(pixels.shape[-1])):
            return pixels
        return self.from_pillow(_to_pillow(pixels))


def _grey(mode: str) -> str:
    """The mode of an image once a 1-bit one is grey."""
    return "L" if mode == _TWO_VALUED else mode


def _eight_bits(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if array.ndim != 3:
        raise ValueError(f"an image must have the axes (H, W) or (H, W, channels), got an array of {array.shape}.")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f" and ((array >= 0) & (array <= 1)).all():
        return np.rint(array * 255).astype(np.uint8)
    if array.dtype.kind in "iu" and ((array >= 0) & (array <= 255)).all():
        return array.astype(np.uint8)
    raise ValueError(
        f"an image must be uint8, or floats in [0, 1], got {array.dtype} in [{array.min()}, {array.max()}]; take "
        "normalisation out of the dataset's transform and pass transform=[Normalize(…)] to the meta-dataset."
    )


def _to_pillow(pixels: npt.NDArray[np.uint8]) -> Any:
    from PIL import Image

    if pixels.shape[-1] not in _MODES:
        raise ValueError(f"only images of 1, 3 or 4 channels can be resized or converted, got {pixels.shape}.")
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels))
