"""Decoding: one image, of one format, of a size that fits into memory, or an error that names it."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metabridge.datasets.images import decode, exactly


def png(side):
    """A square of zeros, a thousand times smaller than its pixels."""
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((side, side), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("side", [8_193, 10_000])
def test_images_of_too_many_pixels_are_refused_before_they_are_decoded(side, monkeypatch):
    """Pillow itself decodes up to 179 million, and from 89 million on gives a warning, which is an error here."""
    content = png(side)
    monkeypatch.setattr(Image.Image, "convert", None)
    with pytest.raises(ValueError, match=r"a\.zip: 'x/y\.png' cannot be used \(.*(pixels|exceeds limit)"):
        decode(content, "x/y.png", Path("a.zip"), "PNG", "L", exactly(28, 28))


@pytest.mark.parametrize("mode", ["L", None])
def test_what_is_cut_short_is_refused(mode):
    content = png(28)[:-20]
    with pytest.raises(ValueError, match=r"'y\.png' cannot be used"):
        decode(content, "y.png", Path("a.zip"), "PNG", mode, exactly(28, 28))


@pytest.mark.parametrize("error", [IndexError("a"), TypeError("a"), KeyError("a"), ZeroDivisionError("a")])
def test_whatever_pillow_says_of_a_broken_image_it_is_named(monkeypatch, error):
    def fail(*arguments, **more):
        raise error

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(ValueError, match=r"a\.zip: 'y\.png' cannot be used \('?a'?\); get the archive again"):
        decode(png(28), "y.png", Path("a.zip"), "PNG", "L", exactly(28, 28))
