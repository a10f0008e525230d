"""A class source over a folder of images: one folder per class, decoded when an example is asked for."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.digests import Digest
from metabridge.sources.images import ImagePreparation
from metabridge.sources.lazy import LazySource

__all__ = ["IMAGE_SUFFIXES", "ImageFolderSource"]

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of the files that are taken for images, whatever their case."""


class ImageFolderSource(LazySource):
    """The images of `folder/<class>/…`: every direct subfolder is a class, named by the folder.

    Classes and, within a class, files at any depth are in the order of their names, so every file system gives
    the same source; links are followed. Files without the ending of an image and names that begin with a dot are
    left out. Opening lists the files and reads the header of one image; labels need no image at all. Each access
    decodes: `in_memory` or `save_source` do it once and for all.

    Pixels are what Pillow's `convert` makes of the stored ones, as in torchvision's `ImageFolder`. The EXIF orientation
    is ignored, except that Pillow applies it to TIFF files. Transparency is dropped, not blended, except in mode
    `"RGBA"`. Palette and CMYK images need a `mode`. Grey images of more than 8 bits are refused; of 16-bit colours
    Pillow keeps the high byte. Of several frames the first is taken.

    The fingerprint is of class names, sizes, `mode`, `resize` and the bytes of every file, read once when it is
    asked for and not decoded: what a JPEG file decodes to is Pillow's matter.

    Args:
        folder: the folder of class folders.
        resize: `(height, width)` or the side of a square, to which images are resized by a Lanczos filter;
            `None` requires one size.
        mode: `"L"` (grey), `"RGB"` or `"RGBA"`, to which images are converted; `None` requires one of these.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it has no class folders, one of them has no image, or a link leads round in a circle.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        resize: int | tuple[int, int] | None = None,
        mode: str | None = None,
    ) -> None:
        self.folder = Path(folder).absolute()  # a pickled source must be found from another working folder
        if not self.folder.is_dir():
            raise FileNotFoundError(f"`folder` must hold one folder per class, there is no folder {self.folder}.")
        self.preparation = ImagePreparation.of(mode, resize)
        names = sorted(entry.name for entry in os.scandir(self.folder) if entry.is_dir() and _is_visible(entry.name))
        if not names:
            raise ValueError(f"`folder` must hold one folder per class, {self.folder} holds no folder.")
        files = [_images_below(self.folder / name) for name in names]
        for name, found in zip(names, files, strict=True):
            if not found:
                raise ValueError(
                    f"every class needs at least one image, {self.folder / name} holds none of the endings "
                    f"{', '.join(IMAGE_SUFFIXES)}; fill the folder or remove it."
                )
        self._files = [f"{name}/{file}" for name, found in zip(names, files, strict=True) for file in found]
        sizes = np.array([len(found) for found in files], dtype=np.int64)
        super().__init__(sizes, names, self._first_shape(), np.dtype(np.uint8))

    def _first_shape(self) -> tuple[int, int, int]:
        with self._open(0) as image:
            try:
                return self.preparation.shape(image.mode, image.size[::-1])
            except ValueError as error:
                raise ValueError(f"{self.where(0)}: {error}") from None

    def _open(self, row: int) -> Any:
        from PIL import Image, UnidentifiedImageError  # 0.1 s to import, and not needed for sources in memory

        try:
            return Image.open(self.folder / self._files[row])
        except UnidentifiedImageError:
            raise ValueError(f"{self.where(row)} is no image that Pillow can read; remove or replace it.") from None

    def read(self, row: int) -> npt.NDArray[np.uint8]:
        """Decode one file as `(H, W, channels)`."""
        from PIL import Image

        bomb = Image.DecompressionBombError
        with self._open(row) as image:
            try:
                return self.preparation.from_pillow(image)
            except (OSError, SyntaxError, ValueError, bomb) as error:  # SyntaxError: Pillow's word for a broken PNG
                raise ValueError(f"{self.where(row)} cannot be read: {error}") from None

    def where(self, row: int) -> str:
        """Path of a file."""
        return str(self.folder / self._files[row])

    def compute_fingerprint(self) -> str:
        """Hexadecimal BLAKE2b of names, sizes, preparation and the bytes of every file."""
        digest = Digest(f"metabridge image folder\n{self.preparation}\n{self.example_shape}\n")
        for name, start, size in zip(
            self.class_names, self.class_starts.tolist(), self.class_sizes.tolist(), strict=True
        ):
            digest.add(f"{size} {name}\n")
            for file in self._files[start : start + size]:
                content = (self.folder / file).read_bytes()
                digest.add(f"{len(content)}\n").add(content)
        return digest.hexadecimal()


def _images_below(folder: Path) -> list[str]:
    """Paths of the images under `folder`, relative to it, sorted, with slashes on every system."""
    found = []
    for path, folders, files in os.walk(folder, onerror=_stop, followlinks=True):
        inside = Path(path).relative_to(folder)
        above = [folder, *(folder.joinpath(*inside.parts[: i + 1]) for i in range(len(inside.parts)))]
        for name in filter(_is_visible, folders):
            if Path(path, name).is_symlink() and any(Path(path, name).samefile(parent) for parent in above):
                raise ValueError(f"{Path(path, name)} is a link to a folder that it is in, without end; remove it.")
        folders[:] = [name for name in folders if _is_visible(name)]
        found += [(inside / file).as_posix() for file in files if _is_image(file)]
    return sorted(found)


def _stop(error: OSError) -> None:
    """A folder that cannot be listed is no empty folder, for which `os.walk` takes it."""
    raise error


def _is_visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))


def _is_image(name: str) -> bool:
    return _is_visible(name) and name.lower().endswith(IMAGE_SUFFIXES)
