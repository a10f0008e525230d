"""Official pickles: plain data comes back as it was written by Python 2 or 3, and nothing else comes or runs."""

import collections
import copyreg
import io
import os
import pickle
import random
import struct
import tracemalloc
import zipfile
from datetime import date
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from helpers import every

from metabridge.archives.members import open_members
from metabridge.archives.pickles import load_pickle, stream_pickled_list

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def plain_data():
    array = np.arange(12.0).reshape(3, 4)
    shared = [1, "two"]
    return {
        "numbers": [0, 255, -5, 2**100, 1.5, float("inf"), True, False, None],
        "text": ["", "a", "ü" * 300, "\0'\"\n"],
        "bytes": [b"", b"a\xff", bytes(range(256)) * 2],
        "containers": [(), (1,), (1, (2,)), {1: {2: 3}}, {(1, "a"): 2}, [[], []]],
        "arrays": [array, array.T, array[:, ::2], np.zeros((0, 5)), np.array(7, ">i4"), np.array([True])],
        "images": np.random.default_rng(0).integers(0, 256, (3, 84, 84, 3), np.uint8),
        "strings": [np.array(["x", "yy"]), np.array([b"s", b"tt"])],
        "scalars": [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("é")],
        "shared": [shared, shared],
        "ordered": collections.OrderedDict([("b", 1), ("a", 2)]),
    }


def assert_same(found, expected):
    kind = dict if type(expected) is collections.OrderedDict else type(expected)
    assert type(found) is kind
    if isinstance(expected, np.ndarray):
        assert found.dtype == expected.dtype
        assert not found.flags.writeable
        np.testing.assert_array_equal(found, expected)
    elif kind is dict:
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif kind in (list, tuple):
        assert len(found) == len(expected)
        for each, other in zip(found, expected, strict=True):
            assert_same(each, other)
    else:
        assert found == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_comes_back_as_it_was_written(protocol, tmp_path):
    expected = plain_data()
    content = pickle.dumps(expected, protocol)
    (tmp_path / "data.pkl").write_bytes(content)
    with (tmp_path / "data.pkl").open("rb") as file:
        for source in (content, io.BytesIO(content), file):
            found = load_pickle(source, "data.pkl")
            assert_same(found, expected)
            assert found["shared"][0] is found["shared"][1]


def test_a_pickle_is_read_from_an_archive_as_it_comes(tmp_path):
    expected = plain_data()
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(expected))
    with open_members(tmp_path / "data.zip") as members, members.open("data.pkl") as file:
        assert_same(load_pickle(file, "data.pkl"), expected)


def old_names(content):
    """A pickle as NumPy 1 wrote it."""
    return content.replace(b"numpy._core", b"numpy.core")


def python2_list(arrays):
    """A list of uint8 arrays `(n, 1)` as cPickle of Python 2 wrote it: everything remembered, little of it fetched."""
    parts, count = [b"\x80\x02]"], 0

    def put(operations):
        nonlocal count
        parts.append(operations + (b"q" + bytes([count]) if count < 256 else b"r" + struct.pack("<I", count)))
        count += 1
        return b"h" + bytes([count - 1]) if count <= 256 else b""

    put(b"")
    dtype = b""
    for number, array in enumerate(arrays):
        if number % 1000 == 0:
            parts.append(b"e(" if number else b"(")
        if number == 0:
            reconstruct, ndarray = put(b"cnumpy.core.multiarray\n_reconstruct\n"), put(b"cnumpy\nndarray\n")
        else:
            parts.append(reconstruct + ndarray)
        put(b"K\x00\x85")
        if number == 0:
            letter = put(b"U\x01b")
        else:
            parts.append(letter)
        put(b"\x87")
        put(b"R")
        put(b"(K\x01" + b"M" + struct.pack("<H", len(array)) + b"K\x01\x86")
        if number == 0:
            put(b"cnumpy\ndtype\n")
            put(b"U\x02u1")
            put(b"K\x00K\x01\x87")
            dtype = put(b"R")
            put(b"(K\x03U\x01|")
            put(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t")
            parts.append(b"b")
        else:
            parts.append(dtype)
        put(b"\x89T" + struct.pack("<i", array.size) + array.tobytes())
        put(b"t")
        parts.append(b"b")
    return b"".join(parts) + (b"e." if arrays else b".")


def test_numpys_old_names_are_known():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = old_names(pickle.dumps([array, array[0, 0]], 2))
    assert b"numpy.core.multiarray" in content
    assert b"_core" not in content
    assert_same(load_pickle(content, "x"), [array, array[0, 0]])


def short_string(content):
    return b"U" + bytes([len(content)]) + content


PYTHON2 = (
    b"\x80\x02}q\x00("
    + short_string(b"data")
    + b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85"
    + short_string(b"b")
    + b"\x87Rq\x03(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x04"
    + short_string(b"u1")
    + b"K\x00K\x01\x87Rq\x05(K\x03"
    + short_string(b"|")
    + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x06\x00\x00\x00\x00\x01\x02\xfd\xfe\xfftb"
    + short_string(b"fine_labels")
    + b"]q\x06(K\x13K\x1deu."
)
"""What Python 2 makes of `{"data": uint8 array (2, 3), "fine_labels": [19, 29]}`, as in CIFAR-100."""


def test_a_pickle_of_python_2():
    array = np.array([[0, 1, 2], [253, 254, 255]], np.uint8)
    assert_same(load_pickle(PYTHON2, "train"), {"data": array, "fine_labels": [19, 29]})
    assert_same(load_pickle(PYTHON2, "train", encoding="bytes"), {b"data": array, b"fine_labels": [19, 29]})
    theirs = pickle.loads(PYTHON2.replace(b"numpy.core", b"numpy._core"), encoding="latin1")
    np.testing.assert_array_equal(theirs["data"], array)
    with pytest.raises(ValueError, match="`encoding` must be one of 'latin1', 'bytes', got 'utf-8'"):
        load_pickle(PYTHON2, "train", encoding="utf-8")


def test_protocol_0_of_python_2():
    content = b"(dp0\nS'label'\np1\n(lp2\nI7\naL8L\nasS'name'\nS'caf\\xe9'\ns."
    assert load_pickle(content, "x") == {"label": [7, 8], "name": "café"}
    assert load_pickle(content, "x", "bytes") == {b"label": [7, 8], b"name": b"caf\xe9"}


# What is refused -----------------------------------------------------------------------------------------


class Reducing:
    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


class Stateful:
    def __init__(self):
        self.x = 1


class Subclass(np.ndarray):
    pass


class MyDict(dict):
    pass


HOSTILE = [
    (Reducing(os.system, ("touch {}",)), r"global '(posix|nt)\.system'"),
    (Reducing(eval, ("open('{}', 'w')",)), r"global '(builtins|__builtin__)\.eval'"),
    (Reducing(exec, ("open('{}', 'w')",)), r"global '(builtins|__builtin__)\.exec'"),
    (Reducing(getattr, ("a", "upper")), r"global '.*\.getattr'"),
    (Reducing(Path, ("{}",)), r"global 'pathlib\.\w+'"),
    (Reducing(open, ("{}", "w")), r"global '(_?io)\.open'"),
    (Reducing(type, ("evil", (), {})), r"global '.*\.type'"),
    (Reducing(copyreg._reconstructor, (1, object, None)), r"global 'copy_?reg\._reconstructor'"),
    (Reducing(np.load, ("{}",)), r"global 'numpy\.load'"),
    (Reducing(np.frombuffer, (b"ab",)), r"global 'numpy(\._?core\.multiarray)?\.frombuffer'"),
    (Reducing(np.lib.format.open_memmap, ("{}", "w+")), r"global 'numpy.*open_memmap'"),
    (Stateful(), r"global '(test_pickles\.Stateful|copy_reg\._reconstructor)'"),
    (MyDict(a=1), r"global '(test_pickles\.MyDict|copy_reg\._reconstructor)'"),
    (collections.defaultdict(list), r"global 'collections\.defaultdict'"),
    (collections.deque([1]), r"global 'collections\.deque'"),
    (date(2020, 1, 1), r"global 'datetime\.date'"),
    (Fraction(1, 2), r"global 'fractions\.Fraction'"),
    (slice(1), r"global '.*\.slice'"),
    (range(3), r"global '.*\.x?range'"),
    (os.system, r"global '(posix|nt)\.system'"),
    (np.ndarray, r"it holds the global 'ndarray'"),
    ([(np.dtype, 1)], r"it holds the global 'dtype'"),
    (np.dtype("u1"), r"it holds an object of type .*DType"),
    (np.array([1, None], object), "it makes an array of Python objects"),
    (np.array([Reducing(os.system, ("touch {}",))], object), "global '(posix|nt).system'|array of Python objects"),
    (np.zeros(2, "i4,f4"), r"it makes an array of dtype 'V8'"),
    (np.zeros(2, "V3"), r"it makes an array of dtype 'V3'"),
    (np.zeros(2, "M8[s]"), r"it makes an array of dtype 'M8'"),
    (np.zeros(3).view(Subclass), r"global 'test_pickles\.Subclass'"),
    (np.ma.zeros(3), r"global 'numpy\.ma\.core\._mareconstruct'"),
    (np.random.default_rng(0), r"global 'numpy\.random\._pickle"),
    ({((1,),): 2}, "it uses an object of type tuple as a key"),
    ({1, 2}, r"global '(builtins|__builtin__)\.set'|an operation that makes"),
    (frozenset([1]), r"global '(builtins|__builtin__)\.frozenset'|an operation that makes"),
    (1 + 2j, r"global '(builtins|__builtin__)\.complex'"),
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("hostile", "words"), HOSTILE, ids=lambda value: value if isinstance(value, str) else "")
def test_anything_else_is_refused_and_nothing_of_it_runs(hostile, words, protocol, tmp_path):
    evil = tmp_path / "evil"
    if isinstance(hostile, Reducing):
        target, arguments = hostile.reduced
        hostile = Reducing(target, tuple(a.format(evil) if isinstance(a, str) else a for a in arguments))
    content = pickle.dumps({"image_data": hostile}, protocol)
    for source in (content, old_names(content) if protocol < 4 else content):
        with pytest.raises(ValueError, match=rf"train\.pkl: .*({words})") as caught:
            load_pickle(source, "train.pkl")
        assert "nothing of it was run" in str(caught.value)
    assert not evil.exists()


def test_the_hostile_pickles_would_run_elsewhere(tmp_path):
    """Or the test above would show nothing."""
    evil = tmp_path / "evil"
    pickle.loads(pickle.dumps(Reducing(os.system, (f"touch {evil}",))))
    assert evil.exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
DTYPE = b"cnumpy\ndtype\n\x8c\x02%s\x89\x88\x87R(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
U1 = DTYPE % b"u1"


def array_pickle(shape, content, dtype=U1):
    return b"\x80\x04" + ARRAY + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb."


OPERATIONS = [
    (b"cposix\nsystem\n\x8c\x02id\x85R.", r"global 'posix\.system'"),
    (b"\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.", r"global 'posix\.system'"),
    (b"ccopyreg\n__newobj__\ncnumpy\nndarray\n\x85R.", r"global 'copyreg\.__newobj__'"),
    (b"ccopy_reg\n_reconstructor\n(cnumpy\nndarray\nc__builtin__\nobject\nNtR.", r"global 'copy_reg\._reconstructor'"),
    (b"(S'id'\niposix\nsystem\n.", "an operation that makes or changes other objects"),
    (b"(cnumpy\nndarray\nK\x03o.", "an operation that makes"),
    (b"cnumpy\nndarray\nK\x03\x85\x81.", "an operation that makes"),
    (b"cnumpy\nndarray\nK\x03\x85}\x92.", "an operation that makes"),
    (b"cnumpy\nndarray\nK\x03\x85R.", "it calls numpy.ndarray"),
    (b"Pid\n.", "an operation that makes"),
    (b"\x8c\x02idQ.", "an operation that makes"),
    (b"\x82\x01.", "an operation that makes"),
    (b"\x83\x01\x00.", "an operation that makes"),
    (b"\x84\x01\x00\x00\x00.", "an operation that makes"),
    (b"\x97.", "an operation that makes"),
    (b"]2.", "an operation that makes"),
    (b"\xff.", "is not a readable pickle"),
    (b"]}b.", "it sets the state of an object of type list"),
    (b"cnumpy\ndtype\n}b.", "it sets the state of the global 'dtype'"),
    (b"\x8c\x02id)R.", "it calls an object of type str"),
    (b"]]R.", "it calls an object of type list"),
    (b"cnumpy\ndtype\n]R.", "it calls the global 'dtype'"),
    (b"c_codecs\nencode\n\x8c\x01a\x8c\x06rot_13\x86R.", "it encodes as an object of type str"),
    (b"c_codecs\nencode\nC\x01a\x8c\x06latin1\x86R.", "for one of type str"),
    (b"cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.", "it calls bytes with arguments"),
    (b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.", r"global 'builtins\.bytearray'"),
    (b"cos\npath.join\n.", r"global 'os\.path\.join'"),
    (b"cnumpy\ndtype.newbyteorder\n.", r"global 'numpy\.dtype\.newbyteorder'"),
    (b"}K\x01a.", "for one of type list"),
    (b"\x8f.", "an operation that makes"),
    (b"]K\x01K\x02s.", "for one of type dict"),
    (b"](K\x01K\x02u.", "for one of type dict"),
    (b"](K\x01\x90.", "an operation that makes"),
    (b"}]K\x01s.", "it uses an object of type list as a key"),
    (b"}(]K\x01u.", "it uses an object of type list as a key"),
    (b"(]K\x01d.", "it uses an object of type list as a key"),
    (b"(K\x01\x91.", "an operation that makes"),
    (b"}(K\x01u.", "is not a readable pickle"),
    (ARRAY + b".", "it holds an object of type _Pending"),
    (b"](" + ARRAY + b"\x94\x85h\x00(K\x01K\x01\x85" + U1 + b"\x89C\x01xtbe.", "it holds an object of type _Pending"),
    (b"cnumpy.core.multiarray\n_reconstruct\nNK\x00\x85C\x01b\x87R.", "for one of type _Global"),
    (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85C\x01b\x87R.", "array of another class"),
    (b"cnumpy\ndtype\nN\x85Rb.", "is not a readable pickle"),
    (b"cnumpy\ndtype\nN\x85R)b.", "for one of type str"),
    (b"cnumpy\ndtype\n\x8c\x02u1\x85R)b.", "is not a readable pickle"),
    (b"cnumpy\ndtype\n\x8c\x02u1\x85R(K\x03\x8c\x01<\x8c\x02u1NNtb.", "it makes an array of a structured dtype"),
    (b"cnumpy\ndtype\n\x8c\x02u1\x85R(K\x03\x8c\x01<N\x8c\x01a\x85}tb.", "it makes an array of a structured dtype"),
    (b"cnumpy\ndtype\n\x8c\x05f4,i4\x85R(K\x03\x8c\x01<NNNtb.", "it makes an array of dtype 'f4,i4'"),
    (b"cnumpy\ndtype\n\x8c\x0a(1000,)f8,\x85R(K\x03\x8c\x01<NNNtb.", "it makes an array of dtype"),
    (array_pickle(b"K\x05\x85", b"C\x03abc"), "it makes an array of 5 bytes from 3"),
    (array_pickle(b"K\x02\x85", b"C\x03abc"), "it makes an array of 2 bytes from 3"),
    (array_pickle(b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", b"C\x03abc"), "bytes from 3"),
    (array_pickle(b"\x8a\x0f" + b"\xff" * 14 + b"\x7f\x85", b"C\x03abc"), "bytes from 3"),
    (array_pickle(b"J\xff\xff\xff\xffJ\xfd\xff\xff\xff\x86", b"C\x03abc"), "an array of a shape that is none"),
    (array_pickle(b"G" + struct.pack(">d", 3) + b"\x85", b"C\x03abc"), "an array of a shape that is none"),
    (array_pickle(b"\x88\x85", b"C\x01a"), "an array of a shape that is none"),
    (array_pickle(b"]", b"C\x01a"), "an array of a shape that is none"),
    (array_pickle(b"J\xff\xff\xff\x7f\x85", b"C\x00", DTYPE % b"S0"), "it makes an array of dtype"),
    (array_pickle(b"K\x01\x85", b"]"), "for one of type bytes"),
    (array_pickle(b"K\x01\x85", b"C\x01a", b"N"), "it makes an array of dtype an object of type NoneType"),
    (array_pickle(b"K\x01\x85", b"C\x08abcdefgh", DTYPE % b"O8"), "it makes an array of Python objects"),
]


@pytest.mark.parametrize(("content", "words"), OPERATIONS)
def test_every_operation_is_narrow(content, words):
    with pytest.raises(ValueError, match=rf"x\.pkl.*{words}"):
        load_pickle(content, "x.pkl")


def test_the_narrow_operations_do_work():
    """Or the test above would show nothing."""
    np.testing.assert_array_equal(load_pickle(array_pickle(b"K\x03\x85", b"C\x03abc"), "x"), [97, 98, 99])
    assert load_pickle(b"c_codecs\nencode\n\x8c\x01a\x8c\x06latin1\x86R.", "x") == b"a"
    assert load_pickle(b"](K\x01K\x02e.", "x") == [1, 2]


# Bombs and damage ----------------------------------------------------------------------------------------


def peak_bytes(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        b"\x8e" + struct.pack("<Q", 1 << 40) + b"x",  # BINBYTES8
        b"\x8d" + struct.pack("<Q", 1 << 40) + b"x",  # BINUNICODE8
        b"\x96" + struct.pack("<Q", 1 << 40) + b"x",  # BYTEARRAY8
        b"\x96" + struct.pack("<Q", (1 << 64) - 1) + b"x",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"x",  # FRAME
        b"T" + struct.pack("<i", (1 << 31) - 1) + b"x",  # BINSTRING
        b"B" + struct.pack("<I", (1 << 32) - 1) + b"x",  # BINBYTES
        b"\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x",  # LONG4
        b"]r\xff\xff\xff\x7f0",  # LONG_BINPUT
        b"]p99999999999999\n0",  # PUT
    ],
)
def test_announced_bytes_take_no_memory_before_they_come(content, tmp_path):
    (tmp_path / "bomb.pkl").write_bytes(content)

    def load():
        with (
            (tmp_path / "bomb.pkl").open("rb") as file,
            pytest.raises(ValueError, match=r"bomb\.pkl is not a readable"),
        ):
            load_pickle(file, "bomb.pkl")

    assert peak_bytes(load) < 8 << 20


def test_what_is_copied_again_and_again_is_refused():
    text = b"X" + struct.pack("<I", 1 << 16) + b"a" * (1 << 16)
    again = b"h\x00h\x01h\x02\x86R"
    encodes = b"](" + b"c_codecs\nencode\n\x940" + text + b"\x940\x8c\x06latin1\x940" + again * 2000 + b"e."
    arrays = (
        b"](" + b"T" + struct.pack("<i", 1 << 16) + b"a" * (1 << 16) + b"\x940" + U1 + b"\x940"
        + (ARRAY + b"(K\x01J\x00\x00\x01\x00\x85h\x01\x89h\x00tb") * 500 + b"e."
    )  # fmt: skip
    for content in (encodes, arrays):

        def load(content=content):
            with pytest.raises(ValueError, match=r"bomb\.pkl: it builds more data than it holds"):
                load_pickle(content, "bomb.pkl")

        assert peak_bytes(load) < 20 * len(content)


def test_deep_nesting_does_not_overflow_the_stack():
    deep = b")" + b"\x85" * 200_000
    assert isinstance(load_pickle(deep + b".", "x"), tuple)
    with pytest.raises(ValueError, match="it uses an object of type tuple as a key"):
        load_pickle(b"}" + deep + b"Ns.", "x")


def test_a_tuple_that_doubles_is_walked_once():
    content = (
        b"K\x01\x85"
        + b"\x940h\x00h\x00\x86"
        + b"".join(
            b"r" + struct.pack("<I", i) + b"0j" + struct.pack("<I", i) + b"j" + struct.pack("<I", i) + b"\x86"
            for i in range(1, 200)
        )
    )
    assert isinstance(load_pickle(content + b".", "x"), tuple)


def test_arrays_share_the_bytes_they_came_in():
    array = np.zeros(8 << 20, np.uint8)
    content = pickle.dumps(array, 4)
    assert peak_bytes(lambda: load_pickle(io.BytesIO(content), "x")) < 18 << 20


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_damage_is_a_value_error(protocol):
    """Cut anywhere: always an error. Any bytes overwritten: never another exception."""
    content = pickle.dumps(plain_data() | {"images": None}, protocol)
    draw = random.Random(protocol)
    for length in range(0, len(content), 17):
        with pytest.raises(ValueError, match=r"x\.pkl"):
            load_pickle(content[:length], "x.pkl")
    for _ in range(300):
        changed = bytearray(content)
        for _ in range(draw.randint(1, 3)):
            changed[draw.randrange(len(content))] = draw.randrange(256)
        try:
            load_pickle(bytes(changed), "x.pkl")
        except ValueError as error:
            message = str(error)
            if "x.pkl" not in message:
                raise


@pytest.mark.parametrize("load", [load_pickle, lambda content, name: list(stream(content))])
def test_a_text_scalar_of_no_text_is_damage(load):
    content = pickle.dumps([np.str_("x")], 4)
    with pytest.raises(ValueError, match=r"list\.pkl is not a readable pickle"):
        load(content.replace(b"x\0\0\0", b"x\0t\0"), "list.pkl")


def test_a_page_in_place_of_a_pickle_is_no_pickle():
    for content in (b"", b"<html>quota</html>", b"PK\x03\x04"):
        with pytest.raises(ValueError, match=r"train\.pkl(: it| is not a readable pickle)"):
            load_pickle(content, "train.pkl")


# Lists, item by item -------------------------------------------------------------------------------------


def stream(content, encoding="latin1"):
    return stream_pickled_list(lambda: io.BytesIO(content), "list.pkl", encoding)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_list_comes_item_by_item_as_it_was_written(protocol):
    shared = [1, "two"]
    for expected in ([plain_data(), shared, shared, [], None], list(range(2500)), [], [[]], [[[1]], [2]]):
        content = pickle.dumps(expected, protocol)
        found = list(stream(content))
        assert_same(found, expected)
        assert_same(found, load_pickle(content, "x"))


def test_text_of_python_2_in_its_oldest_protocol_comes_back():
    assert list(stream(b"(lp0\nS'a\\xff'\np1\nag1\na.")) == ["a\xff", "a\xff"]


def test_shared_items_stay_shared():
    shared = [1, "two"]
    first, second, _ = stream(pickle.dumps([shared, shared, 3], 2))
    assert first is second


@pytest.mark.parametrize("encoding", ["latin1", "bytes"])
def test_a_list_of_python_2_comes_item_by_item(encoding):
    draw = np.random.default_rng(0)
    arrays = [draw.integers(0, 256, (n % 400, 1), np.uint8) for n in range(2345)]
    content = python2_list(arrays)
    assert_same(pickle.loads(content, encoding="latin1")[7].tolist(), arrays[7].tolist())  # or this would show nothing
    assert_same(list(stream(content, encoding)), arrays)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["python 2", 2, 5])
def test_a_long_list_takes_the_memory_of_a_batch(protocol, tmp_path):
    path, count, size = tmp_path / "list.pkl", 20_000, 2000
    arrays = [np.full((size, 1), i % 100, np.uint8) for i in range(count)]
    path.write_bytes(python2_list(arrays) if protocol == "python 2" else pickle.dumps(arrays, protocol))
    del arrays
    assert path.stat().st_size > count * size
    seen = []

    def read():
        for item in stream_pickled_list(lambda: path.open("rb"), "list.pkl", "bytes"):
            seen.append(int(item[0, 0]) if item.shape == (size, 1) else -1)

    assert peak_bytes(read) < 8 << 20  # of 40 MB
    assert seen == [i % 100 for i in range(count)]


def test_a_list_is_read_from_a_file_that_cannot_seek(tmp_path):
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("list.pkl", pickle.dumps([[1], [2]]))
    with open_members(tmp_path / "data.zip") as members:

        def open_file():
            file = members.open("list.pkl")
            file.seek = file.tell = None
            return file

        assert list(stream_pickled_list(open_file, "list.pkl")) == [[1], [2]]


def test_files_are_closed_however_reading_ends(tmp_path):
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([1, 2, 3]))
    opened = []

    def open_file():
        opened.append((tmp_path / "list.pkl").open("rb"))
        return opened[-1]

    assert list(stream_pickled_list(open_file, "list.pkl")) == [1, 2, 3]
    items = stream_pickled_list(open_file, "list.pkl")
    assert next(items) == 1
    items.close()
    assert len(opened) == 4
    assert every(file.closed for file in opened)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("hostile", "words"), HOSTILE, ids=lambda value: value if isinstance(value, str) else "")
def test_a_hostile_item_is_refused_and_nothing_of_it_runs(hostile, words, protocol, tmp_path):
    evil = tmp_path / "evil"
    if isinstance(hostile, Reducing):
        target, arguments = hostile.reduced
        hostile = Reducing(target, tuple(a.format(evil) if isinstance(a, str) else a for a in arguments))
    content = pickle.dumps([1, hostile], protocol)
    with pytest.raises(ValueError, match=rf"list\.pkl: .*({words})") as caught:
        list(stream(content))
    assert "nothing of it was run" in str(caught.value)
    assert not evil.exists()


@pytest.mark.parametrize(("content", "words"), OPERATIONS)
def test_every_operation_on_an_item_is_as_narrow(content, words):
    with pytest.raises(ValueError, match=rf"list\.pkl.*({words}|is not a readable pickle|it sets the state of)"):
        list(stream(b"]" + content[:-1] + b"a."))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({"a": [1]}), "it holds an object of type dict where a list must be"),
        (pickle.dumps(([1], 2)), "it holds an object of type tuple where a list must be"),
        (pickle.dumps(np.zeros(3)), "it holds an object of type ndarray where a list must be"),
        (b"].", "no error"),
        (b"]q\x00h\x00a.", "its list refers to itself"),
        (b"(]q\x001h\x00K\x01a.", "it makes its outermost list in a roundabout way"),
        (b"]0]K\x01a.", "it makes its outermost list in a roundabout way"),
        (b"]q\x00K\x01q\x01\x94a.", "it counts what it remembers in two ways"),
        (b"]K\x01ah\x05a.", "is not a readable pickle"),
        (b"]K\x01a", "is not a readable pickle"),
        (b"", "is not a readable pickle"),
        (b"<html>", "is not a readable pickle"),
    ],
)
def test_what_is_no_list_is_refused(content, words):
    if words == "no error":
        assert list(stream(content)) == []
        return
    with pytest.raises(ValueError, match=rf"list\.pkl.*{words}"):
        list(stream(content))


def test_an_unknown_encoding_is_refused_at_once():
    with pytest.raises(ValueError, match="`encoding` must be one of"):
        stream(b"].", "ascii")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_damage_of_a_list_is_a_value_error(protocol):
    content = pickle.dumps([plain_data() | {"images": None}, 1, [2]], protocol)
    draw = random.Random(10 + protocol)
    for length in range(0, len(content), 23):
        with pytest.raises(ValueError, match=r"list\.pkl"):
            list(stream(content[:length]))
    for _ in range(200):
        changed = bytearray(content)
        for _ in range(draw.randint(1, 3)):
            changed[draw.randrange(len(content))] = draw.randrange(256)
        try:
            list(stream(bytes(changed)))
        except ValueError as error:
            message = str(error)
            if "list.pkl" not in message:
                raise
