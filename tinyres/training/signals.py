"""Ctrl-C, the end of a batch job, a closed terminal: a run finishes its step and saves before it ends."""
from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .progress import say

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """A list for the numbers of Ctrl-C, SIGTERM and SIGHUP; the same one again acts as usual, at once.

    Under nohup, where the process ignores SIGHUP, it goes on doing so.
    """
    stop: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python delivers signals to the main thread only
        return

    def on_signal(number: int, frame: object) -> None:
        signal.signal(number, before[number])
        stop.append(number)
        say("\nstopping after this step", file=sys.stderr)

    before = {number: signal.getsignal(number) for number in STOPPING}
    for number, handler in before.items():
        if not (handler is signal.SIG_IGN and number == getattr(signal, "SIGHUP", None)):
            signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
