"""Coded examples, a fresh interpreter, and a chi-square check."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import metabridge
from metabridge.sources import ArraySource

ROOT = Path(metabridge.__file__).resolve().parents[1]
"""The folder that holds the three import packages."""


def coded_images(class_id, count, side=6):
    """`(count, side, side, 1)` uint8: pixel (0, 0) is the class id, (0, 1) the example id; no two turns are alike."""
    images = np.empty((count, side, side, 1), dtype=np.uint8)
    pattern = np.arange(side * side).reshape(side, side, 1)
    for example in range(count):
        images[example] = (pattern * 7 + class_id * 31 + example * 13) % 251
    images[:, 0, 0, 0] = class_id
    images[:, 0, 1, 0] = np.arange(count)
    return images


def coded_source(sizes, side=6):
    """A source with these class sizes, whose examples carry their class id and their example id."""
    return ArraySource.from_classes(
        {f"class{class_id}": coded_images(class_id, size, side) for class_id, size in enumerate(sizes)}
    )


def decode(inputs):
    """Class ids and example ids of unturned coded inputs `(…, H, W, 1)` float32, as they are in a batch."""
    pixels = np.rint(np.asarray(inputs) * 255).astype(np.int64)
    return pixels[..., 0, 0, 0], pixels[..., 0, 1, 0]


def every(truths):
    """Whether all hold, of at least one: a law over nothing says nothing."""
    found = [bool(each) for each in truths]
    assert found, "there is nothing to check"
    return all(found)


def run_python(program, *arguments, python=sys.executable, **environment):
    """Run a program text in a fresh interpreter that finds metabridge; returns the completed process."""
    return subprocess.run(
        [python, "-c", program, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def chi_square_excess(counts, expected=None):
    """How many standard deviations the chi-square statistic of `counts` lies above its mean (expected: uniform)."""
    counts = np.asarray(counts, dtype=np.float64)
    expected = np.full_like(counts, counts.mean()) if expected is None else expected
    freedom = counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)
