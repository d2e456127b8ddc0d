"""Programs that only print: they end without a traceback after `| head`, and after Ctrl-C."""
import signal
import sys


def end_with_reader() -> None:
    """From here on the program ends without a word when nobody reads what it prints, as others do, and at
    Ctrl-C."""
    signal.signal(signal.SIGINT, lambda *_: sys.exit(128 + signal.SIGINT))
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
