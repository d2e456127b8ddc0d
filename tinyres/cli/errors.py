"""What a script does about errors, and about output that nobody reads any more."""
from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

from .. import distributed
from ..training.progress import printable
from ..training.signals import STOPPING


def run_script(main: Callable[[], None]) -> None:
    """Run a script; an error that its user can do something about becomes one line, not a traceback. A signal
    that ends it, SIGTERM too, lets it remove its temporary files."""
    for number in STOPPING:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _interrupt)
    # Python has None for a stream that was closed from the start
    sys.stdout, sys.stderr = (_Output(stream or open(os.devnull, "w")) for stream in (sys.stdout, sys.stderr))
    try:
        main()
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        _end(str(error))
    except KeyboardInterrupt as error:
        number, = error.args or (signal.SIGINT,)
        _end("interrupted; what the run had already saved is still there", 128 + number)
    except MemoryError as error:
        _end(f"not enough memory ({error}): choose fewer --blocks, smaller --widths, a smaller --batch-size, "
             "fewer --workers or smaller pictures")


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt(number)


class _Output:
    """A text stream that goes silent when nothing can be written to it any more: a closed pipe or terminal, a
    log on a full disk. Nor does text that the terminal cannot encode end a run."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with self._silenced_on_error():
            self.stream.write(printable(text, self.stream))
        return len(text)

    def flush(self) -> None:
        with self._silenced_on_error():
            self.stream.flush()

    @contextmanager
    def _silenced_on_error(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # from here on, and when Python flushes at its end, the text goes nowhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _end(reason: str, status: int = 1) -> NoReturn:
    message = f"{Path(sys.argv[0]).name}: {reason}"
    distributed.abort(message)
    print(message, file=sys.stderr)
    sys.exit(status)
