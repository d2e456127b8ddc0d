"""Reading pickles that may come from anywhere, as CIFAR's batches do.

A pickle is a program for a machine with a stack, which may call any function, and whose keys and nesting can
take all time and memory of Python's own machine. `_Machine` knows only what makes a dictionary of lists,
strings, numbers and arrays of bytes.
"""
from __future__ import annotations

import io
import pickletools
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy

CALLED = {  # the names by which NumPy and Python 3 make arrays and bytes: nothing is called that a file names
    "numpy.ndarray": "ndarray",
    "numpy.dtype": "dtype",
    "numpy.core.multiarray._reconstruct": "_reconstruct",  # NumPy 1, and so the official files
    "numpy._core.multiarray._reconstruct": "_reconstruct",  # NumPy 2
    "numpy.core.numeric._frombuffer": "_frombuffer",  # protocol 5
    "numpy._core.numeric._frombuffer": "_frombuffer",
    "_codecs.encode": "encode",  # how Python 3 writes bytes in protocol 2
}
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINUNICODE",
          "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"}
MADE = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_DICT": dict,
        "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
TAKEN = {"TUPLE": None, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "APPENDS": None, "SETITEM": 2,
         "SETITEMS": None, "STACK_GLOBAL": 2, "REDUCE": 2, "BUILD": 2}  # values; None: all above the mark
PLAIN = str, bytes, bytearray, int, type(None)


class PixelArray:
    """Stands in for numpy.ndarray, which a pickle first makes empty and then fills."""

    pixels: numpy.ndarray | None = None


class _Function(str):
    """The name of what may be called."""


class _Dtype:
    """The only dtype that images have: uint8."""


class _Machine:
    """Runs a pickle's instructions. Keys are text or bytes; a list holds plain values, a tuple those and
    tuples of those, a dictionary no other one: so nothing is nested deep, and nothing deep is hashed.

    room: how many characters may be encoded.
    """

    def __init__(self, room: int) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks below the marks
        self.memo: dict[int, Any] = {}
        self.room = room

    def step(self, name: str, argument: Any) -> None:
        """Run an instruction, named as in pickletools."""
        taken = self._taken(TAKEN[name]) if name in TAKEN else []
        if name in VALUES:
            if isinstance(argument, int) and argument.bit_length() > 64:
                raise UnpicklingError(f"it holds an integer of {argument.bit_length()} bits")
            self.stack.append(argument)
        elif name in MADE:
            self.stack.append(MADE[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "MARK":
            self.below.append(self.stack)
            self.stack = []
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(_tuple(taken))
        elif name in ("APPEND", "APPENDS"):
            _extend(self.stack[-1], taken)
        elif name in ("SETITEM", "SETITEMS"):
            _update(self.stack[-1], taken[::2], taken[1::2])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            function = ".".join(taken) if taken else argument.replace(" ", ".")
            if function not in CALLED:
                raise UnpicklingError(f"it asks for {function[:100]!r}, which a data file has no use for")
            self.stack.append(_Function(CALLED[function]))
        elif name == "REDUCE":
            self.stack.append(self._call(*taken))
        elif name == "BUILD":
            self.stack.append(self._filled(*taken))
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise UnpicklingError(f"it has an instruction {name}, which a data file has no use for")

    def _taken(self, count: int | None) -> list[Any]:
        """The last values on the stack, or all above the mark, which leave it."""
        if count is None:
            items, self.stack = self.stack, self.below.pop()
        else:
            items = self.stack[-count:]
            del self.stack[-count:]
        return items

    def _call(self, function: object, arguments: tuple[Any, ...]) -> Any:
        """What the function would make."""
        if not isinstance(function, _Function):
            raise UnpicklingError(f"it calls a {type(function).__name__}")
        if function == "encode":
            return self._bytes(arguments[0])
        if function == "dtype":
            if (name := self._bytes(arguments[0])) != b"u1":
                raise UnpicklingError(f"an array has dtype {name.decode():.20}, expected u1 (uint8)")
            return _Dtype()
        array = PixelArray()  # empty, whatever the shape
        if function == "_frombuffer":
            array.pixels = self._array(*arguments)
        return array

    def _filled(self, target: object, state: tuple[Any, ...]) -> object:
        """An array with its content; a dtype of single bytes needs none."""
        if isinstance(target, PixelArray):
            _, shape, dtype, columns_first, content = state
            target.pixels = self._array(content, dtype, shape, "F" if columns_first else "C")
        elif not isinstance(target, _Dtype):
            raise UnpicklingError(f"it sets the state of a {type(target).__name__}")
        return target

    def _array(self, content: Any, dtype: object, shape: Any, order: Any) -> numpy.ndarray:
        if not isinstance(dtype, _Dtype):
            raise UnpicklingError("an array has no dtype")
        return numpy.frombuffer(self._bytes(content), numpy.uint8).reshape(shape, order=order)

    def _bytes(self, text: str | bytes) -> bytes:
        """Bytes as they are; those that Python 2, or Python 3 in protocol 2, wrote as text."""
        if not isinstance(text, str):
            return text
        self.room -= len(text)
        if self.room < 0:
            raise UnpicklingError("it encodes more text than it holds")
        return text.encode("latin-1")


def _tuple(items: list[Any]) -> tuple[Any, ...]:
    inner = [value for item in items if isinstance(item, tuple) for value in item]
    if len(items) > 10 or any(isinstance(item, dict | list | tuple) for item in inner) or any(
            isinstance(item, dict | list) for item in items):
        raise UnpicklingError("it has longer or deeper tuples than a data file")
    return tuple(items)


def _extend(target: Any, items: list[Any]) -> None:
    if not isinstance(target, list) or not all(isinstance(item, PLAIN) for item in items):
        raise UnpicklingError("it has a list of something else than strings and numbers")
    target.extend(items)


def _update(target: Any, keys: list[Any], values: list[Any]) -> None:
    if not isinstance(target, dict) or any(isinstance(value, dict) for value in values):
        raise UnpicklingError("it has a dictionary in something else")
    for key, value in zip(keys, values, strict=True):
        if not isinstance(key, str | bytes) or len(key) > 100:
            raise UnpicklingError("it has a key that is not a short string")
        target[key.decode("latin-1") if isinstance(key, bytes) else key] = value


def malformed(path: Path, reason: str) -> ValueError:
    """The error to raise for a file that is not as it should be, with the remedy."""
    return ValueError(f"{path} is not as the official archive has it: {reason}. "
                      f"Delete the folder {path.parent} and run again to get a fresh copy.")


def read_pickle(path: Path, rows: int) -> dict[str, Any]:
    """The dictionary, with str keys, in a file that describes `rows` images. Python 2's strings become text.

    Raises FileNotFoundError if the file is missing, ValueError if it is malformed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. "
                                f"Delete the folder {path.parent} and run again to get a fresh copy.")
    # A byte can take two bytes in protocol 2; the rest of a row is its label and its file name.
    limit = 2**20 + rows * (2 * 3072 + 256)
    if path.stat().st_size > limit:
        raise malformed(path, f"it has more than {limit} bytes")
    content = path.read_bytes()
    stream, machine = io.BytesIO(content), _Machine(room=len(content))
    try:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
            if count > 1000 + 16 * rows:
                raise UnpicklingError(f"it has more objects than {rows} images need")
            machine.step(instruction.name, argument)
        if stream.tell() != len(content):
            raise UnpicklingError(f"the pickle ends after {stream.tell()} of {len(content)} bytes")
        batch, = machine.stack
    except MemoryError:
        raise  # the file is not to blame
    except Exception as error:  # a damaged pickle can raise nearly any exception
        raise malformed(path, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(batch, dict):
        raise malformed(path, f"it holds a {type(batch).__name__}, expected a dict")
    return batch
