"""Reading pickles that may come from anywhere, as CIFAR's batches do.

A pickle is a program that may call any function. `_Unpickler` lets it call only the stand-ins here, which
make dictionaries, lists, strings, numbers and arrays of bytes.
"""
from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path

import numpy


class PixelArray:
    """Stands in for numpy.ndarray, which a pickle first makes empty and then fills with __setstate__."""

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Uint8, bool, bytes]) -> None:
        _, shape, dtype, fortran, content = state
        self.pixels = _array(content, dtype, shape, "F" if fortran else "C")


class _Uint8:
    """Stands in for numpy.dtype and admits the only dtype that images have."""

    def __init__(self, code: str | bytes, align: bool = False, copy: bool = False) -> None:
        name = code.decode() if isinstance(code, bytes) else code
        if name != "u1":
            raise pickle.UnpicklingError(f"an array has dtype {name:.20}, expected u1 (uint8)")

    def __setstate__(self, state: tuple[object, ...]) -> None:
        """Do nothing: the state holds byte order and fields of a record, and a single byte has neither."""


def _array(content: bytes, dtype: _Uint8, shape: tuple[int, ...], order: str) -> numpy.ndarray:
    """The array that a pickle describes, without a copy, so that the file's size bounds its size."""
    if not isinstance(dtype, _Uint8):
        raise pickle.UnpicklingError("an array has no dtype")
    return numpy.frombuffer(content, numpy.uint8).reshape(shape, order=order)


class _Unpickler(pickle.Unpickler):
    """Reads a pickle of dictionaries, lists, strings, numbers and uint8 arrays, and nothing else.

    NumPy's own functions never see what the file says, because some of them can be made to run code or take
    all memory. The stand-ins are methods: a pickle that sets attributes could change functions.
    """

    def find_class(self, module: str, name: str) -> object:
        admitted = {
            "numpy.ndarray": PixelArray,
            "numpy.dtype": _Uint8,
            "numpy.core.multiarray._reconstruct": self._reconstruct,  # NumPy 1, and so the official files
            "numpy._core.multiarray._reconstruct": self._reconstruct,  # NumPy 2
            "numpy.core.numeric._frombuffer": self._frombuffer,  # protocol 5
            "numpy._core.numeric._frombuffer": self._frombuffer,
            "_codecs.encode": self._encode,  # how Python 3 writes bytes in protocol 2
        }
        function = f"{module}.{name}"
        if function not in admitted:
            raise pickle.UnpicklingError(f"it asks for {function[:100]!r}, which a data file has no use for")
        return admitted[function]

    def _reconstruct(self, kind: type, shape: tuple[int, ...], code: bytes) -> PixelArray:
        return PixelArray()  # empty whatever the shape

    def _frombuffer(self, content: bytes, dtype: _Uint8, shape: tuple[int, ...], order: str) -> PixelArray:
        array = PixelArray()
        array.pixels = _array(content, dtype, shape, order)
        return array

    def _encode(self, text: str, encoding: str | bytes) -> bytes:
        return text.encode("latin-1")


def malformed(path: Path, reason: str) -> ValueError:
    """The error to raise for a file that is not as it should be, with the remedy."""
    return ValueError(f"{path} is not as the official archive has it: {reason}. "
                      f"Delete the folder {path.parent} and run again to get a fresh copy.")


def read_pickle(path: Path, rows: int) -> dict[object, object]:
    """The dictionary, with str keys, in a file that describes `rows` images.

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
    stream = io.BytesIO(content)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > 1000 + 16 * rows:
                raise pickle.UnpicklingError(f"it has more objects than {rows} images need")
            # The unpickler would make a table as long as the largest number.
            if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > count:
                raise pickle.UnpicklingError(f"object number {argument} comes after {count} instructions")
        if stream.tell() != len(content):
            raise pickle.UnpicklingError(f"the pickle ends after {stream.tell()} of {len(content)} bytes")
        stream.seek(0)
        batch = _Unpickler(stream, encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise nearly any exception
        raise malformed(path, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(batch, dict):
        raise malformed(path, f"it holds a {type(batch).__name__}, expected a dict")
    return {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in batch.items()}
