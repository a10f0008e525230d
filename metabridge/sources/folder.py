"""A class source over a folder of images: one folder per class, decoded when an example is asked for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.checks import check_path
from metabridge.digests import Digest
from metabridge.sources.images import ImagePreparation
from metabridge.sources.lazy import LazySource
from metabridge.storage.kinds import check_file

__all__ = ["IMAGE_SUFFIXES", "ImageFolderSource"]

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of the files that are taken for images, whatever their case."""


class ImageFolderSource(LazySource):
    """The images of `folder/<class>/…`: every direct subfolder is a class, named by the folder.

    Classes and, within a class, files at any depth are in the order of their names, so every file system gives
    the same source; links are followed. Files without the ending of an image and names that begin with a dot are
    left out. Opening lists the files and reads the header of one image; labels need no image at all. Each access
    decodes: `in_memory` or `save_source` do it once and for all.

    The files must stay as they are: one that has another size or time of change than when the source was opened is an
    error when it is read, also by a pickle of the source in another process. Devices, named pipes and broken links
    are refused without being opened.

    Pixels are what Pillow's `convert` makes of the stored ones, as in torchvision's `ImageFolder`. The EXIF orientation
    is ignored, except that Pillow applies it to TIFF files. Transparency is dropped, not blended, except in mode
    `"RGBA"`. Images of 1 bit are grey ones of 0 and 255. Palette and CMYK images need a `mode`. Grey images of more
    than 8 bits are refused; of 16-bit colours Pillow keeps the high byte. Of several frames the first is taken.

    The fingerprint is of class names, sizes, `mode`, `resize` and the bytes of every file, read once when it is
    asked for and not decoded: what a JPEG file decodes to is Pillow's matter.

    Args:
        folder: the folder of class folders.
        resize: `(height, width)` or the side of a square, to which images are resized by a Lanczos filter;
            `None` requires one size.
        mode: `"L"` (grey), `"RGB"` or `"RGBA"`, to which images are converted; `None` requires one of these.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if it has no class folders, one of them has no image or something other than a file under the name
            of one, the first image cannot be read, or a link leads round in a circle.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        resize: int | tuple[int, int] | None = None,
        mode: str | None = None,
    ) -> None:
        self.folder = check_path(
            folder, "folder"
        ).absolute()  # a pickled source must be found from another working folder
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
        self._states = np.array([_state(self.folder / file) for file in self._files], dtype=np.int64)
        sizes = np.array([len(found) for found in files], dtype=np.int64)
        super().__init__(sizes, names, self._first_shape(), np.dtype(np.uint8))

    def _first_shape(self) -> tuple[int, int, int]:
        with self._open(0) as image:
            return self.preparation.shape(image.mode, image.size[::-1])

    def read(self, row: int) -> npt.NDArray[np.uint8]:
        """Decode one file as `(H, W, channels)`.

        Raises:
            ValueError: if it was changed since the source was opened, or is no image as required.
        """
        with self._open(row) as image:
            return self.preparation.from_pillow(image)

    @contextmanager
    def _open(self, row: int) -> Iterator[Any]:
        """A file as a Pillow image; an error of the block is taken for one of the image."""
        from PIL import Image, UnidentifiedImageError  # 0.1 s to import, and not needed for sources in memory

        self._check_unchanged(row)
        try:
            with Image.open(self.folder / self._files[row]) as image:
                yield image
        except UnidentifiedImageError:
            raise ValueError(f"{self.where(row)} is no image that Pillow can read; remove or replace it.") from None
        except MemoryError:
            raise
        except Exception as error:  # Pillow reports broken metadata as nearly anything: IndexError, struct.error, …
            reason = error if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}"
            raise ValueError(f"{self.where(row)} cannot be read: {reason}") from None

    def _check_unchanged(self, row: int) -> None:
        if _state(self.folder / self._files[row]) != tuple(self._states[row]):
            raise ValueError(
                f"{self.where(row)} was changed since the source was opened; open the folder again, with "
                f"ImageFolderSource({str(self.folder)!r}, …)."
            )

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
            for row in range(start, start + size):
                self._check_unchanged(row)
                content = (self.folder / self._files[row]).read_bytes()
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


def _state(path: Path) -> tuple[int, int]:
    """Size and time of change (ns) of a regular file, which is not opened.

    Raises:
        FileNotFoundError: if there is none any more.
        ValueError: if it is a device, a named pipe, a folder or a link to nothing.
    """
    try:
        status = check_file(path)
    except FileNotFoundError:
        if not path.is_symlink():
            raise
        raise ValueError(f"{path} is a link to nothing; remove it.") from None
    return status.st_size, status.st_mtime_ns


def _stop(error: OSError) -> None:
    """A folder that cannot be listed is no empty folder, for which `os.walk` takes it."""
    raise error


def _is_visible(name: str) -> bool:
    return not name.startswith((".", "__MACOSX"))


def _is_image(name: str) -> bool:
    return _is_visible(name) and name.lower().endswith(IMAGE_SUFFIXES)
