"""The one digest: BLAKE2b of everything added, whatever the pieces, the memory layout and the byte order."""

import ast
import hashlib

import numpy as np
import pytest
from helpers import ROOT

from metabridge.digests import DIGEST_BYTES, Digest


def blake2b(content):
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def test_it_is_blake2b_of_all_that_was_added():
    digest = Digest("größe\n").add(b"\x00\xff").add("x")
    assert digest.hexadecimal() == blake2b("größe\n".encode() + b"\x00\xffx")
    assert digest.to_bytes().hex() == digest.hexadecimal()
    assert len(digest.to_bytes()) == DIGEST_BYTES


@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i8", "<f4", ">f4"])
def test_arrays_count_as_little_endian_bytes_in_c_order(dtype):
    array = np.arange(24).reshape(4, 6).astype(dtype)
    expected = blake2b(array.astype(np.dtype(dtype).newbyteorder("<")).tobytes())
    for same in (array, np.asfortranarray(array), np.repeat(array, 2, axis=1)[:, ::2]):
        assert Digest().add_array(same).hexadecimal() == expected
    assert Digest().add_array(array, "<i8").hexadecimal() == blake2b(array.astype("<i8").tobytes())


def test_texts_are_told_apart():
    lists = [["ab"], ["a", "b"], ["", "ab"], ["ab", ""], []]
    assert len({Digest().add_texts(texts).hexadecimal() for texts in lists}) == len(lists)


def test_blake2b_is_nowhere_else():
    """What is hashed with it elsewhere could be hashed another way."""
    paths = [path for path in (ROOT / "metabridge").rglob("*.py") if path.name != "digests.py"]
    assert paths
    for path in paths:
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert "blake2b" not in names, path
