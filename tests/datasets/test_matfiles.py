"""MATLAB files: what scipy writes is read, and what is damaged is an error and never a crash."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from metabridge.archives.matfiles import read_bytes_field


def written(variables, compressed):
    file = io.BytesIO()
    savemat(file, variables, do_compression=compressed)
    return file.getvalue()


def example(mask, compressed=True):
    """As SBD's files are: a struct with boundaries, a mask and the classes present."""
    boundaries = np.empty((20, 1), object)
    boundaries[:] = [[np.zeros((3, 2))]]
    ground_truth = {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": np.unique(mask)}
    return written({"other": 1.5, "GTcls": ground_truth}, compressed)


MASK = np.random.default_rng(0).integers(0, 21, (37, 50), np.uint8)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 4), (37, 50), (3, 1), (5, 7, 2)])
def test_what_scipy_writes_is_read(shape, compressed):
    mask = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    found = read_bytes_field(example(mask, compressed), "GTcls", "Segmentation")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, mask)


def test_fields_are_found_by_name():
    content = written({"s": {"ab": np.array([[1]], np.uint8), "abc": np.array([[2]], np.uint8)}}, False)
    assert read_bytes_field(content, "s", "ab").tolist() == [[1]]
    assert read_bytes_field(content, "s", "abc").tolist() == [[2]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no little-endian MATLAB file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "no little-endian MATLAB file"),
        (written({"x": MASK}, False), "has no variable 'GTcls'"),
        (written({"GTcls": MASK}, False), "is no 1x1 struct"),
        (written({"GTcls": {"Boundaries": MASK}}, False), "has no field 'Segmentation'"),
        (written({"GTcls": {"Segmentation": MASK.astype(np.float64)}}, False), "is no array of bytes"),
        (written({"GTcls": {"Segmentation": "text"}}, False), "is no array of bytes"),
        (written({"GTcls": {"Segmentation": MASK[:0]}}, False), "values for shape|no array of bytes"),
        (example(MASK)[:128] + struct.pack("<II", 15, 8) + zlib.compress(b""), "something that is no array"),
        (example(MASK)[:-40], "ends too early"),
        (example(MASK, False)[:1000], "ends too early"),
        (written({"GTcls": {"Segmentation": np.zeros((65 << 10, 1 << 10), np.uint8)}}, True), "more than 67,108,864"),
    ],
)
def test_anything_else_says_what_is_wrong(content, message):
    with pytest.raises(ValueError, match=message):
        read_bytes_field(content, "GTcls", "Segmentation")


@given(st.booleans(), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_files_are_an_error_or_an_array_of_bytes(compressed, changes):
    content = bytearray(example(MASK, compressed))
    for place, value in changes:
        content[place % len(content)] = value
    try:
        found = read_bytes_field(bytes(content), "GTcls", "Segmentation")
    except ValueError:
        return
    assert found.dtype == np.uint8
    assert found.size <= len(content) * 1100  # what zlib can pack at most
