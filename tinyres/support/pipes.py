"""Output that somebody stopped reading, as after `| head`."""
import signal


def end_with_reader() -> None:
    """From here on the program ends without a word when nobody reads what it prints, as others do."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
