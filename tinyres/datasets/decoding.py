"""From a picture's file to the pixels of a window in it. The file may come from anywhere: it is read as JPEG
or PNG, whatever its name says, and how much is decoded at once is bounded."""
from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy
from PIL import Image, ImageOps

from ..support.files import refusing, user_path

SIZE = 224  # pixels: width and height of the images that a network gets, unless another size is asked for
SHORTER_SIDE = 256  # pixels: in evaluation a picture is scaled to this before its middle is cut out
MIN_AREA = 0.08  # of random windows: fraction of the picture
ASPECT = 3 / 4, 4 / 3  # of random windows: width / height
TRIES = 10  # windows drawn until one fits into the picture
FORMATS = "JPEG", "PNG"  # Pillow knows formats that start other programs, whatever a file's name says
MAX_PIXELS = 64_000_000  # decoded at once, in up to half a gigabyte; a larger picture is refused

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


class _Room:
    """Room for the pixels that threads decode at once."""

    def __init__(self) -> None:
        self.left, self.changed = MAX_PIXELS, threading.Condition()

    @contextlib.contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        """Within this context that many pixels are taken, once other threads have left them."""
        with self.changed:
            self.changed.wait_for(lambda: self.left >= pixels)
            self.left -= pixels
        try:
            yield
        finally:
            with self.changed:
                self.left += pixels
                self.changed.notify_all()


@functools.cache
def _room(process: int) -> _Room:
    """The room of a process: in a fork of it, no thread would give back what it had taken."""
    return _Room()


def draw_windows(count: int, rng: numpy.random.Generator) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Random numbers for pictures in training: windows (count, TRIES, 4) from 0 to 1, see `decode`, and
    whether each picture is mirrored, (count,)."""
    return rng.random((count, TRIES, 4)), rng.random(count) < 0.5


def decode(path: str | Path, windows: numpy.ndarray | None = None, flip: bool = False,
           min_area: float = MIN_AREA, size: int = SIZE) -> numpy.ndarray:
    """A picture's pixels, (size, size, 3) uint8: its middle, or the first of the windows that fits into it.

    windows: (tries, 4) from 0 to 1: area, shape, and place across and down of each. flip: whether to mirror
    the picture. Raises what `_read_window` raises.
    """
    box = (functools.partial(_middle, fraction=SIZE / SHORTER_SIDE) if windows is None else
           functools.partial(_window, windows=windows.tolist(), min_area=min_area))
    pixels = _read_window(path, size, box)
    return pixels[:, ::-1] if flip else pixels


def read_square(path: str | Path, size: int, fraction: float = 1) -> numpy.ndarray:
    """The largest square in the middle of a picture, or this fraction of its side, scaled to (size, size, 3)
    uint8.

    Raises FileNotFoundError for a path that does not exist, ValueError unless the file is a whole picture.
    """
    if not user_path(path).exists():
        raise FileNotFoundError(f"there is no file {path}")
    with refusing(f"{path} cannot be read as a picture: give a JPEG or PNG file"):
        return _read_window(path, size, functools.partial(_middle, fraction=fraction))


def _read_window(path: str | Path, size: int, box: Callable[[int, int], Box]) -> numpy.ndarray:
    """A window of a picture, scaled to (size, size, 3) uint8. box: (width, height) -> the window.

    Gray pictures, pictures with a palette or transparency, and those for print (CMYK) become RGB; a picture
    that a camera stored turned is turned back.
    Raises OSError, or another error, for a file that is not a whole picture or has more than MAX_PIXELS;
    MemoryError, if memory ends.
    """
    try:
        return _decoded(path, size, box)
    except Exception:  # perhaps because other threads had taken the memory
        return _decoded(path, size, box, alone=True)


def _decoded(path: str | Path, size: int, box: Callable[[int, int], Box],
             alone: bool = False) -> numpy.ndarray:
    """`_read_window`. alone: whether no other thread decodes meanwhile."""
    if not user_path(path).is_file():
        raise ValueError("it is not a regular file")
    with Image.open(user_path(path), formats=FORMATS) as picture:
        width, height = picture.size
        left, top, right, bottom = box(width, height)
        # a JPEG file of a much larger picture is decoded at 1/2, 1/4 or 1/8 of its size, for less work
        picture.draft("RGB", (math.ceil(width * size / (right - left)),
                              math.ceil(height * size / (bottom - top))))
        across, down = picture.width / width, picture.height / height
        window = (left * across, top * down,
                  min(right * across, picture.width), min(bottom * down, picture.height))
        # of a progressive JPEG file all coefficients are in memory, whatever the size that it is decoded at
        pixels = width * height if "progressive" in picture.info else picture.width * picture.height
        if pixels > MAX_PIXELS:
            raise ValueError(f"{width} x {height} pixels are more than are decoded, {MAX_PIXELS:,}")
        with _room(os.getpid()).of(MAX_PIXELS if alone else pixels):
            try:
                return numpy.asarray(_scaled(picture, size, window))
            except Exception as error:  # decoders take a lack of memory for a broken file
                if isinstance(error, MemoryError) or not _memory_for(pixels):
                    raise MemoryError(f"decoding {path}, {width} x {height} pixels") from error
                raise


def _scaled(picture: Image.Image, size: int, window: Box) -> Image.Image:
    colors = picture
    if picture.mode.startswith("I"):  # 16 bits of gray, which convert would cut off at 255
        colors = Image.fromarray((numpy.asarray(picture) >> 8).astype(numpy.uint8))
    if colors.mode != "RGB":
        colors = colors.convert("RGB")
    image = colors.resize((size, size), Image.Resampling.BILINEAR, window)
    if "exif" in picture.info:
        image.info["exif"] = picture.info["exif"]
        try:
            ImageOps.exif_transpose(image, in_place=True)
        except MemoryError:
            raise
        except Exception:  # damaged metadata do not make a damaged picture
            pass
    return image


def _memory_for(pixels: int) -> bool:
    """Whether there is memory to decode as many pixels of any kind."""
    try:
        return numpy.empty((pixels, 16), numpy.uint8).size >= 0
    except MemoryError:
        return False


def _centered(width: int, height: int, w: float, h: float) -> Box:
    left, top = (width - w) / 2, (height - h) / 2
    return left, top, left + w, top + h


def _middle(width: int, height: int, fraction: float) -> Box:
    side = min(width, height) * fraction
    return _centered(width, height, side, side)


def _window(width: int, height: int, windows: Sequence[Sequence[float]], min_area: float) -> Box:
    for size, shape, across, down in windows:
        area = width * height * (min_area + (1 - min_area) * size)
        aspect = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** shape
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 1 <= w <= width and 1 <= h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    # a very long picture: its middle
    return _centered(width, height, min(width, height * ASPECT[1]), min(height, width / ASPECT[0]))
