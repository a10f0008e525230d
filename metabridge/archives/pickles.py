"""Read official pickles without running anything that is in them (contract C11)."""

import codecs
import io
import math
import pickle
import pickletools
import re
import struct
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, ClassVar

import numpy as np
import numpy.typing as npt

from metabridge.checks import check_choice

__all__ = ["load_pickle", "stream_pickled_list"]

_ENCODINGS = ("latin1", "bytes")
_PIECE_BYTES = 1 << 20
_DTYPE = re.compile(r"[<>|=]?(?P<kind>[biufcSU])\d{1,9}|\?")
_KEYS = (str, bytes, int, float, bool, type(None))
_PLAIN = (*_KEYS, bytearray)
_ADMITTED = "only lists, tuples, dicts, strings, bytes, numbers and NumPy arrays of them are read"

_OPCODES = """
    PROTO FRAME STOP MARK POP POP_MARK GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE BINUNICODE8 SHORT_BINUNICODE
    BINBYTES BINBYTES8 SHORT_BINBYTES BYTEARRAY8
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
    GLOBAL STACK_GLOBAL REDUCE BUILD
"""

_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ValueError,
    OverflowError,
    MemoryError,
    SystemError,  # NumPy's word for text that is none
    struct.error,
)


def load_pickle(content: bytes | BinaryIO, name: str, encoding: str = "latin1") -> Any:
    """The object in a pickle, made by Python 2 or 3, if it is plain data.

    Nothing that the pickle names is imported or called: its containers and NumPy arrays are built here. Arrays are
    read-only and share the memory of the bytes they came in.

    Args:
        content: the pickle, or a file that holds it, which need not fit into memory twice.
        name: its name, for messages.
        encoding: what Python 2's strings become: `"latin1"` for text, `"bytes"` for bytes.

    Raises:
        ValueError: for a damaged pickle, and for one that asks for anything but lists, tuples, dicts, strings, bytes,
            numbers and NumPy arrays of them, or for more memory than its bytes justify.
    """
    _check_encoding(encoding)
    file = io.BytesIO(content) if isinstance(content, bytes | bytearray | memoryview) else content
    with _explained(name):
        result = _Unpickler(_Counted(file), encoding).load()
        _check_plain(result)
    return result


def stream_pickled_list(open_file: Callable[[], BinaryIO], name: str, encoding: str = "latin1") -> Iterator[Any]:
    """The items of a pickle that is one list, one after the other, under the rules of `load_pickle`.

    Only items that were pickled as one batch, 1,000 of them, and what a later item refers to are in memory together.
    The file is read twice: first for what is referred to, which need not be seekable, as members of archives are not.

    Args:
        open_file: opens the file anew.
        name: its name, for messages.
        encoding: as for `load_pickle`.

    Raises:
        ValueError: as `load_pickle` does, for a pickle of anything but a list, and for a list that holds itself;
            possibly after some items.
    """
    _check_encoding(encoding)
    return _streamed(open_file, name, encoding)


def _streamed(open_file: Callable[[], BinaryIO], name: str, encoding: str) -> Iterator[Any]:
    with _explained(name):
        with open_file() as file:
            fetched = _fetched(_Counted(file))
        with open_file() as file:
            yield from _ListUnpickler(_Counted(file), encoding, fetched).items()


def _check_encoding(encoding: str) -> None:
    check_choice(encoding, "encoding", _ENCODINGS)


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Whatever is wrong with a pickle as a `ValueError` that names it."""
    try:
        yield
    except _ForbiddenError as error:
        raise ValueError(
            f"{name}: {error}; {_ADMITTED}, and nothing of it was run: get the file from its official address."
        ) from None
    except _BROKEN as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{name} is not a readable pickle ({reason}); it is damaged: get it again.") from None


class _ForbiddenError(Exception):
    """A pickle asks for what it must not have."""


class _Global:
    """A name in a pickle that stands for an admitted class or function; never the thing itself."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Pending:
    """An array or dtype whose state has not come yet.

    Attributes:
        key: where it is in the memo.
        build: makes the finished object from the state.
    """

    def __init__(self, build: Callable[[Any], Any]) -> None:
        self.key: int | None = None
        self.build = build


class _Memo(dict[int, Any]):
    """The objects a pickle may refer back to; it tells a pending one where it is."""

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(value, _Pending):
            value.key = key
        super().__setitem__(key, value)


class _Counted:
    """A file that counts what was read, and takes no memory for bytes that do not come."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.count = 0

    def read(self, size: int) -> bytes:
        """Up to `size` bytes."""
        if size <= _PIECE_BYTES:
            content = self._file.read(size)
        else:
            buffer = io.BytesIO()
            while (left := size - buffer.tell()) and (piece := self._file.read(min(left, _PIECE_BYTES))):
                buffer.write(piece)
            content = buffer.getvalue()
        self.count += len(content)
        return content

    def readline(self) -> bytes:
        """Up to the next newline."""
        line = self._file.readline()
        self.count += len(line)
        return line


_PythonUnpickler: Any = pickle._Unpickler  # the one written in Python: C's keeps its operations to itself


class _Unpickler(_PythonUnpickler):
    """Python's unpickler without the operations that make or change objects other than plain ones."""

    dispatch: ClassVar[dict[int, Callable[["_Unpickler"], None]]]

    def __init__(self, file: _Counted, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self.memo = _Memo()
        self._counted = file
        self._converted = 0

    def _spend(self, size: int) -> None:
        """Count what is copied: more than came was copied repeatedly, which ends in any amount of memory."""
        self._converted += size
        if self._converted > self._counted.count:
            raise _ForbiddenError("it builds more data than it holds")

    def find_class(self, module: str, name: str) -> Any:
        """The admitted global of this name, as a word."""
        full = f"{module}.{name}"
        if full not in _GLOBALS:
            raise _ForbiddenError(f"it asks for the global {full!r}")
        return _Global(_GLOBALS[full])

    def load_reduce(self) -> None:
        """Build what an admitted global stands for; nothing is called by its name."""
        arguments = self.stack.pop()
        target = self.stack[-1]
        if type(target) is not _Global or type(arguments) is not tuple:
            raise _ForbiddenError(f"it calls {_described(target)}")
        self.stack[-1] = getattr(self, f"_make_{target.name}")(*arguments)

    def load_build(self) -> None:
        """Give a pending array or dtype its state."""
        state = self.stack.pop()
        pending = self.stack[-1]
        if type(pending) is not _Pending:
            raise _ForbiddenError(f"it sets the state of {_described(pending)}")
        self.stack[-1] = pending.build(state)
        if pending.key is not None:
            self.memo[pending.key] = self.stack[-1]

    # Containers: of the right type, and with keys that are cheap to hash

    def load_append(self) -> None:
        """Append to a list."""
        item = self.stack.pop()
        _of_type(self.stack[-1], list).append(item)

    def load_appends(self) -> None:
        """Append to a list."""
        items = self.pop_mark()
        _of_type(self.stack[-1], list).extend(items)

    def load_setitem(self) -> None:
        """Add to a dict."""
        value, key = self.stack.pop(), self.stack.pop()
        _of_type(self.stack[-1], dict)[_key(key)] = value

    def load_setitems(self) -> None:
        """Add to a dict."""
        items = self.pop_mark()
        _of_type(self.stack[-1], dict).update(_pairs(items))

    def load_dict(self) -> None:
        """Make a dict."""
        items = self.pop_mark()
        self.append(dict(_pairs(items)))

    def load_bytearray8(self) -> None:
        """Make a bytearray of bytes that did come."""
        (size,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(size)))

    # What the admitted globals stand for

    def _make_bytes(self, *content: Any) -> bytes:
        if content:
            raise _ForbiddenError("it calls bytes with arguments")
        return b""

    def _make_dict(self) -> dict[Any, Any]:
        return {}

    def _make_encoded(self, text: Any, encoding: Any) -> bytes:
        """Bytes, as Python 3 writes them for Python 2."""
        self._spend(len(_of_type(text, str)))
        if encoding not in ("latin1", "latin-1"):
            raise _ForbiddenError(f"it encodes as {_described(encoding)}")
        return codecs.latin_1_encode(text)[0]

    def _make_dtype(self, code: Any, *_: Any) -> _Pending:
        return _Pending(lambda state: _dtype(code, state))

    def _make_pending_array(self, kind: Any, *_: Any) -> _Pending:
        if getattr(_of_type(kind, _Global), "name", None) != "ndarray":
            raise _ForbiddenError("it makes an array of another class than numpy.ndarray")
        return _Pending(self._array_from_state)

    def _make_ndarray(self, *_: Any) -> Any:
        raise _ForbiddenError("it calls numpy.ndarray")

    def _array_from_state(self, state: Any) -> npt.NDArray[Any]:
        _, shape, dtype, is_fortran, content = _of_type(state, tuple)
        return self._array(content, dtype, shape, "F" if is_fortran else "C")

    def _make_array(self, content: Any, dtype: Any, shape: Any, order: Any) -> npt.NDArray[Any]:
        return self._array(content, dtype, shape, "F" if order in ("F", b"F") else "C")

    def _array(self, content: Any, dtype: Any, shape: Any, order: Any) -> npt.NDArray[Any]:
        if type(content) is str:  # Python 2's
            self._spend(len(content))
            content = codecs.latin_1_encode(content)[0]
        return _array(_of_type(content, bytes, bytearray), dtype, shape, order)

    def _make_scalar(self, dtype: Any, content: Any) -> Any:
        return self._array(content, dtype, (1,), "C")[0]


_Unpickler.dispatch = {
    getattr(pickle, name)[0]: getattr(_Unpickler, f"load_{name.lower()}", None)
    or _PythonUnpickler.dispatch[getattr(pickle, name)[0]]
    for name in _OPCODES.split()
}


def _refuse_opcode(self: _Unpickler) -> None:
    raise _ForbiddenError("it holds an operation that makes or changes other objects")


for _opcode in _PythonUnpickler.dispatch:
    _Unpickler.dispatch.setdefault(_opcode, _refuse_opcode)


_NEW_LISTS = frozenset((pickle.EMPTY_LIST[0], pickle.LIST[0]))
_GROWN_LISTS = frozenset((pickle.APPEND[0], pickle.APPENDS[0]))
_ARGUMENTS = {ord(opcode.code): opcode.arg.n if opcode.arg else 0 for opcode in pickletools.opcodes}
_SIZES = {
    pickletools.TAKEN_FROM_ARGUMENT1: struct.Struct("<B"),
    pickletools.TAKEN_FROM_ARGUMENT4: struct.Struct("<i"),
    pickletools.TAKEN_FROM_ARGUMENT4U: struct.Struct("<I"),
    pickletools.TAKEN_FROM_ARGUMENT8U: struct.Struct("<Q"),
}


def _argument(file: _Counted, opcode: int) -> bytes:
    """The bytes that belong to an operation."""
    size = _ARGUMENTS[opcode]
    if size in _SIZES:
        prefix = _SIZES[size]
        (size,) = prefix.unpack(file.read(prefix.size))
        if size < 0:
            raise ValueError("a size is negative")
    elif size == pickletools.UP_TO_NEWLINE:
        return file.readline() + (file.readline() if opcode == pickle.GLOBAL[0] else b"")
    return file.read(size) if size else b""


def _fetched(file: _Counted) -> frozenset[int]:
    """Where in the memo a pickle ever looks; nothing is decoded for it."""
    get, binary_gets = pickle.GET[0], (pickle.BINGET[0], pickle.LONG_BINGET[0])
    puts = (pickle.PUT[0], pickle.BINPUT[0], pickle.LONG_BINPUT[0])
    fetched, kinds = set(), set()
    while code := file.read(1):
        opcode = code[0]
        argument = _argument(file, opcode)
        if opcode in binary_gets:
            fetched.add(int.from_bytes(argument, "little"))
        elif opcode == get:
            fetched.add(int(argument))
        elif opcode in puts or opcode == pickle.MEMOIZE[0]:
            kinds.add(opcode in puts)
        elif opcode == pickle.STOP[0]:
            break
    if len(kinds) == 2:
        raise _ForbiddenError("it counts what it remembers in two ways")
    return frozenset(fetched)


class _FetchedMemo(_Memo):
    """A memo that keeps only what is fetched."""

    def __init__(self, fetched: Container[int]) -> None:
        super().__init__()
        self._fetched = fetched
        self.outermost: list[Any] | None = None

    def __setitem__(self, key: int, value: Any) -> None:
        if key in self._fetched:
            if value is self.outermost is not None:
                raise _ForbiddenError("its list refers to itself")
            super().__setitem__(key, value)


class _ListUnpickler(_Unpickler):
    """An unpickler that hands over the items of the outermost list as they come."""

    def __init__(self, file: _Counted, encoding: str, fetched: Container[int]) -> None:
        super().__init__(file, encoding)
        self.memo: _FetchedMemo = _FetchedMemo(fetched)
        self._remembered = 0
        self.metastack: list[Any] = []
        self.stack: list[Any] = []

    def load_memoize(self) -> None:
        """Remember; the number of objects remembered says where, the memo's length does not."""
        self.memo[self._remembered] = self.stack[-1]
        self._remembered += 1

    def items(self) -> Iterator[Any]:
        """The loop of `load`, which empties the list whenever it has grown.

        Raises:
            _ForbiddenError: for what `_Unpickler` refuses, and for no list.
        """
        unframer = pickle._Unframer(self._file_read, self._file_readline)  # type: ignore[attr-defined]
        self.read, self.readinto, self.readline = unframer.read, unframer.readinto, unframer.readline
        self._unframer = unframer
        self.append = self.stack.append
        outermost: list[Any] | None = None
        try:
            while key := self.read(1):
                self.dispatch[key[0]](self)
                is_new = key[0] in _NEW_LISTS
                if not (is_new or key[0] in _GROWN_LISTS) or self.metastack or len(self.stack) != 1:
                    continue
                if is_new and outermost is None:
                    outermost = self.memo.outermost = self.stack[0]
                if self.stack[0] is not outermost:
                    raise _ForbiddenError("it makes its outermost list in a roundabout way")
                items = outermost[::-1]
                outermost.clear()
                while items:
                    _check_plain(items[-1])
                    yield items.pop()
            raise EOFError
        except pickle._Stop as stop:  # type: ignore[attr-defined]
            if stop.value is not outermost or outermost is None:
                raise _ForbiddenError(f"it holds {_described(stop.value)} where a list must be") from None


_ListUnpickler.dispatch = _Unpickler.dispatch | {pickle.MEMOIZE[0]: _ListUnpickler.load_memoize}

_GLOBALS = {
    f"{core}.{name}": what
    for core in ("numpy.core", "numpy._core")
    for name, what in (
        ("multiarray._reconstruct", "pending_array"),
        ("multiarray.scalar", "scalar"),
        ("numeric._frombuffer", "array"),
    )
}
_GLOBALS |= {"numpy.ndarray": "ndarray", "numpy.dtype": "dtype", "_codecs.encode": "encoded"}
_GLOBALS |= {"builtins.bytes": "bytes", "__builtin__.bytes": "bytes", "collections.OrderedDict": "dict"}


def _described(thing: Any) -> str:
    if type(thing) is _Global:
        return f"the global {thing.name!r}"
    return f"an object of type {type(thing).__name__}"


def _of_type(thing: Any, *types: type) -> Any:
    """The thing, if it is of one of these types and of no subclass."""
    if type(thing) not in types:
        raise _ForbiddenError(f"it uses {_described(thing)} for one of type {types[0].__name__}")
    return thing


def _key(key: Any) -> Any:
    """A key of a dict: hashing a deep tuple would overflow the stack."""
    if type(key) is tuple:
        return tuple(_simple_key(part) for part in key)
    return _simple_key(key)


def _simple_key(key: Any) -> Any:
    if type(key) in _KEYS or isinstance(key, np.generic):
        return key
    raise _ForbiddenError(f"it uses {_described(key)} as a key")


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    return zip(map(_key, items[::2]), items[1::2], strict=True)


def _dtype(code: Any, state: Any) -> np.dtype[Any]:
    """A dtype of plain numbers or of bytes or text of one length."""
    word = code.decode("ascii") if type(code) is bytes else _of_type(code, str)
    match = _DTYPE.fullmatch(word)
    if match is None:
        what = "Python objects" if word.startswith("O") else f"dtype {word[:40]!r}"
        raise _ForbiddenError(f"it makes an array of {what}")
    version, order, subdtype, names, fields, *_ = _of_type(state, tuple)
    if (version, subdtype, names, fields) != (3, None, None, None):
        raise _ForbiddenError(f"it makes an array of a structured dtype {word[:40]!r}")
    orders: dict[Any, Any] = {"<": "<", b"<": "<", ">": ">", b">": ">", "|": "|", b"|": "|", "=": "=", b"=": "="}
    return np.dtype(word).newbyteorder(orders[order])


def _array(
    content: bytes | bytearray | memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any
) -> npt.NDArray[Any]:
    """The array in these bytes, which must be exactly as many as its shape takes; read-only, no copy."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufcSU" or dtype.itemsize == 0:
        raise _ForbiddenError(
            f"it makes an array of dtype {dtype if isinstance(dtype, np.dtype) else _described(dtype)}"
        )
    if type(shape) is not tuple or any(type(length) is not int or length < 0 for length in shape):
        raise _ForbiddenError("it makes an array of a shape that is none")
    expected = math.prod(shape) * dtype.itemsize
    if expected != len(content):
        raise _ForbiddenError(f"it makes an array of {expected:,} bytes from {len(content):,}")
    array = np.frombuffer(content, dtype).reshape(shape, order=order)
    array.flags.writeable = False
    return array


def _check_plain(result: Any) -> None:
    """Check that every object in a result is plain data, whatever way it came there."""
    waiting, seen = [result], set()
    while waiting:
        thing = waiting.pop()
        kind = type(thing)
        if kind in _PLAIN or kind is np.ndarray or isinstance(thing, np.generic):
            continue
        if kind not in (list, tuple, dict):
            raise _ForbiddenError(f"it holds {_described(thing)}")
        if id(thing) not in seen:
            seen.add(id(thing))
            waiting.extend(thing)
            if kind is dict:
                waiting.extend(thing.values())
