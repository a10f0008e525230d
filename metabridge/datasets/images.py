"""Images as archives hold them, decoded to arrays of one size."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["centre_crop", "decode", "decoder", "exactly", "is_image", "squashed"]

_MOST_PIXELS = 64 << 20  # Pillow would decode up to 179 million, and warn

Image = Any
"""A `PIL.Image.Image`; Pillow takes 0.1 s to import and is not needed once a store is built."""


def decode(
    content: bytes,
    name: str,
    archive: Path,
    form: str | Sequence[str],
    mode: str | None,
    shape: Callable[[Image], Image],
    remedy: str = "get the archive again",
) -> npt.NDArray[np.uint8]:
    """One image as a uint8 array `(H, W, channels)`.

    Args:
        content: the file.
        name: its name, for messages.
        archive: where it is from, for messages.
        form: Pillow's name of the only format accepted, `"PNG"` or `"JPEG"`; or several.
        mode: `"RGB"` or `"L"`; `None` leaves it as it is.
        shape: brings the decoded image to the size wanted.
        remedy: what to do about a damaged image, for messages.

    Raises:
        ValueError: for a damaged image, one of another format, or a decompression bomb.
    """
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    forms = [form] if isinstance(form, str) else form
    try:
        opened = Pillow.open(io.BytesIO(content), formats=list(forms))
        if opened.width * opened.height > _MOST_PIXELS:
            raise ValueError(f"it has {opened.width}x{opened.height} pixels")
        image = shape(opened if mode is None else opened.convert(mode))
        array = np.asarray(image)  # reads what no conversion has read
    except MemoryError:
        raise
    except Exception as error:  # Pillow reports damage as nearly anything: SyntaxError, IndexError, struct.error, …
        reason = f"it is no {' or '.join(forms)} image" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{archive}: {name!r} cannot be used ({reason}); {remedy}.") from None
    return array if array.ndim == 3 else array[:, :, np.newaxis]


def is_image(name: str, ending: str) -> bool:
    """Whether a member counts; what operating systems add beside the images does not."""
    return name.endswith(ending) and not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))


def decoder() -> str:
    """Name of the library that decodes JPEG files: pixels differ from one to the other."""
    import PIL
    from PIL import features

    return f"decoded by Pillow {PIL.__version__} with libjpeg {features.version('jpg')}"


def exactly(width: int, height: int) -> Callable[[Image], Image]:
    """As it is, if it has this size."""

    def shape(image: Image) -> Image:
        if image.size != (width, height):
            raise ValueError(f"it must be of {width}x{height} pixels, got {image.size[0]}x{image.size[1]}")
        return image

    return shape


def centre_crop(size: int, shorter: int) -> Callable[[Image], Image]:
    """The shorter side to `shorter` pixels by linear interpolation, then the middle `size` × `size`.

    Rounded as torchvision's `Resize` and `CenterCrop` do it.
    """

    def shape(image: Image) -> Image:
        from PIL import Image as Pillow

        width, height = image.size
        longer = int(shorter * max(width, height) / min(width, height))
        sides = (shorter, longer) if width <= height else (longer, shorter)
        resized = image.resize(sides, Pillow.Resampling.BILINEAR)
        left, top = round((resized.width - size) / 2.0), round((resized.height - size) / 2.0)
        return resized.crop((left, top, left + size, top + size))

    return shape


def squashed(width: int, height: int) -> Callable[[Image], Image]:
    """To this size by Pillow's bicubic filter, which smooths where it shrinks; the sides' proportion is lost."""

    def shape(image: Image) -> Image:
        from PIL import Image as Pillow

        return image.resize((width, height), Pillow.Resampling.BICUBIC)

    return shape
