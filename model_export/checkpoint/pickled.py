"""Read the tensors of a file that torch.save wrote, without torch and without running what a pickle can name.

A pickle is a program that may call any function of any module. This reads the few instructions that a dictionary of tensors is
made of, calls nothing, and refuses every other instruction and name. Both of torch's formats are known: since release 1.6 a zip
archive of a pickle and a file for each storage, before it one file with the storages behind the pickles.
"""

import math
import pickletools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from app.bundle.sequences import FloatArray

_ITEM_BYTES: Final[Mapping[str, int]] = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
_FLOATS: Final[Mapping[str, str]] = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "<u2",  # the upper half of an fp32
}
_NAMES: Final = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {storage}" for storage in _ITEM_BYTES),
}
_MAGIC: Final = 0x1950A86A20F9469CFC6C
"""What the first pickle of the older format holds."""
_VALUES: Final = {"BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_EMPTY: Final[Mapping[str, type[Any]]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_CONSTANTS: Final[Mapping[str, bool | None]] = {"NEWTRUE": True, "NEWFALSE": False, "NONE": None}
_TUPLES: Final[Mapping[str, int]] = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class PickleError(Exception):
    """The file is none that torch.save wrote, or holds more than tensors by name."""


@dataclass(frozen=True, slots=True)
class _Name:
    """A module and a name in it, which is never looked up."""

    text: str


@dataclass(frozen=True, slots=True)
class _Storage:
    """Numbers in a row: their type, the key of the place where they are, and how many."""

    kind: str
    key: str
    numel: int

    @property
    def size_bytes(self) -> int:
        return self.numel * _ITEM_BYTES[self.kind]


@dataclass(frozen=True, slots=True)
class PickledTensor:
    """A tensor that has not been read yet: a view of a storage. `start` is where this is in the file, None in an archive."""

    path: Path
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int | None = None

    def read(self) -> FloatArray:
        """Return the tensor in fp32.

        Raises:
            PickleError: it holds no floating point numbers, or not as many as it should.
        """
        kind, size_bytes = self.storage.kind, self.storage.size_bytes
        if kind not in _FLOATS:
            raise PickleError(f"it holds numbers of the type {kind.removesuffix('Storage')}")
        try:
            raw = self._stored(size_bytes)
        except Exception as error:  # zipfile has many for what is damaged
            raise PickleError("it is damaged") from error
        if len(raw) != size_bytes:
            raise PickleError("it is cut short")
        numbers = np.frombuffer(raw, _FLOATS[kind])
        if kind == "BFloat16Storage":
            numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
        strides = [stride * numbers.itemsize for stride in self.strides]
        with np.errstate(all="ignore"):  # an overflow ends as infinity, which is refused later
            return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides).astype(np.float32)

    def _stored(self, size_bytes: int) -> bytes:
        if self.start is None:
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(_member(archive, f"data/{self.storage.key}"))
        with self.path.open("rb") as stream:
            stream.seek(self.start)
            return stream.read(min(size_bytes, self.path.stat().st_size))


def read_pickled(path: Path) -> dict[str, PickledTensor]:
    """Return the tensors of a file, by name.

    Raises:
        PickleError: it is no state dict, or damaged.
    """
    try:
        return _tensors(path)
    except PickleError:
        raise
    except Exception as error:  # zipfile has many for what is damaged
        raise PickleError("it is damaged") from error


def _tensors(path: Path) -> dict[str, PickledTensor]:
    state, starts = _zipped(path) if zipfile.is_zipfile(path) else _older(path)
    if not isinstance(state, dict):
        raise PickleError("it holds no dictionary")
    views = {name: value for name, value in state.items() if isinstance(value, tuple) and _is_view(*value)}
    return {
        name: PickledTensor(path, storage, offset, shape, strides, starts.get(storage.key))
        for name, (storage, offset, shape, strides) in views.items()
    }


def _zipped(path: Path) -> tuple[Any, dict[str, int]]:
    with zipfile.ZipFile(path) as archive, archive.open(_member(archive, "data.pkl")) as stream:
        if any(info.filename.endswith("/byteorder") and archive.read(info) != b"little" for info in archive.infolist()):
            raise PickleError("its numbers are stored in big-endian order")
        return _load(stream, []), {}


def _older(path: Path) -> tuple[Any, dict[str, int]]:
    with path.open("rb") as stream:
        storages: list[_Storage] = []
        if _load(stream, []) != _MAGIC:
            raise PickleError("torch.save did not write it")
        _protocol, _system, state, keys = (_load(stream, storages) for _ in range(4))
        sizes = {storage.key: storage.size_bytes for storage in storages}
        starts, start = {}, stream.tell()
        for key in keys:
            starts[_text(key)] = start + 8  # behind the number of items
            start += 8 + sizes[key]
        return state, starts


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """Return a file of an archive whose one folder may have any name; torch never compresses."""
    [info] = (one for one in archive.infolist() if one.filename.partition("/")[2] == name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise PickleError("it is compressed")
    return info


def _load(stream: BinaryIO | Any, storages: list[_Storage]) -> Any:  # noqa: ANN401, C901, PLR0912, PLR0915  # a step for each instruction
    """Return what the pickle at a place of a stream holds. Of a tensor, that is what `_is_view` takes."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def from_mark() -> list[Any]:
        start = marks.pop()
        taken = stack[start:]
        del stack[start:]
        return taken

    for instruction, argument, _ in pickletools.genops(stream):
        match instruction.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case name if name in _VALUES:
                stack.append(argument)
            case name if name in _EMPTY:
                stack.append(_EMPTY[name]())
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _TUPLES:
                stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
            case "TUPLE":
                stack.append(tuple(from_mark()))
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = from_mark()
                stack[-1].extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                stack[-1][_text(key)] = value
            case "SETITEMS":
                items = from_mark()
                stack[-1].update(zip(map(_text, items[::2]), items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_known(str(argument)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_known(f"{_text(module)} {_text(name)}"))
            case "BINPERSID":
                storage = _storage(*stack.pop())
                storages.append(storage)
                stack.append(storage)
            case "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                stack.append(_made(called, arguments))
            case "BUILD":
                stack.pop()  # attributes of the dictionary, such as the versions of its modules
            case name:
                raise PickleError(f"it has the instruction {name}, which no state dict needs")
    raise PickleError("it is cut short")


def _text(value: object) -> str:
    """Return a text; nested tuples of a few bytes may take years to hash or to print."""
    if not isinstance(value, str):
        raise PickleError("it has something else than a text for a name")
    return value


def _known(name: str) -> _Name:
    if name not in _NAMES:
        raise PickleError(f"it names {name.replace(' ', '.', 1)[:60]!r}, which no state dict needs")
    return _Name(name)


def _storage(tag: str, kind: _Name, key: str, _location: str, numel: int, _view: None = None) -> _Storage:
    known = kind.text.removeprefix("torch ")
    if tag != "storage" or known not in _ITEM_BYTES or type(numel) is not int or numel < 0 or _view is not None:
        raise PickleError("it holds a storage of an unknown kind")
    return _Storage(known, _text(key), numel)


def _made(called: _Name, arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401
    match called.text:
        case "collections OrderedDict":
            if arguments:
                raise PickleError("it fills a dictionary in a way that torch.save does not")
            return {}
        case "torch._utils _rebuild_tensor_v2":
            return arguments[:4]
        case "torch._utils _rebuild_parameter":
            return arguments[0]
        case _:
            raise PickleError("it calls a storage")


def _is_view(storage: object, offset: object = None, shape: object = None, strides: object = None, *_: object) -> bool:
    """Return whether these are the parts of a tensor, all of which is within its storage."""
    if not isinstance(storage, _Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
        return False
    numbers = (offset, *shape, *strides)
    if len(shape) != len(strides) or not all(type(number) is int and number >= 0 for number in numbers):
        raise PickleError("it holds a tensor of an impossible shape")
    last = int(offset) + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))  # type: ignore[call-overload]
    if math.prod(shape) and (last >= storage.numel or math.prod(shape) > storage.numel):
        raise PickleError("it holds a tensor that is larger than its storage")
    return True
