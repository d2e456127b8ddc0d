"""One training run in several processes of this machine, forked from one, each on its own cores.

    with forked(2) as group:
        train(..., Run(folder, config, group=group), ...)

Why it is faster than threads (fast/cpu/threads.py): threads take turns at Python's lock for all that happens
between two NumPy calls, which costs a sixth of a small network's time on two cores. Processes share nothing
but the sum of their gradients.

The other processes are copies of this one (os.fork), made where the context begins, so data and weights are
there already and take no further memory until a process writes to them. Gradients meet in a file in memory
that all processes have mapped. A pipe between process 0 and each other process says when they are there; it
breaks when either of the two dies.
"""
from __future__ import annotations

import mmap
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO

import numpy

from .. import backend
from ..backend import Array
from ..fast.cpu import threads
from .group import SINGLE_PROCESS, Group, count_numbers, spread

MIN_SHARD = 16  # images of a batch; with fewer, the fixed work of a step outweighs a process's share of it
MAX_WEIGHTS = 2_000_000  # with more, threads are faster: they share kernels and gradients


class ForkedGroup(Group):
    """Process `rank` of `size` on this machine. Every process must make the same calls in the same order.

    connections: from process 0 to all others, from each other process to process 0. file: a descriptor that
    all share.
    """

    def __init__(self, rank: int, size: int, connections: Sequence[Connection], file: int) -> None:
        self.rank, self.size, self.connections, self.file = rank, size, connections, file
        self.rows: numpy.ndarray | None = None

    def broadcast(self, arrays: Sequence[Array]) -> None:
        """Nothing to do: the processes began as copies of process 0."""

    def all_reduce_mean(self, arrays: Sequence[Array]) -> None:
        """Each process writes its arrays into its own row, adds up its part of all rows into the last one,
        and reads the other parts there: the same bits in all processes."""
        numbers = count_numbers(self, arrays)
        if not numbers:
            return
        dtype = numpy.result_type(*(array.dtype for array in arrays))
        if self.rows is None or (self.rows.shape[1], self.rows.dtype) != (numbers, dtype):
            self.rows = self._shared((self.size + 1, numbers), dtype)
        numpy.concatenate([array.reshape(-1) for array in arrays], out=self.rows[self.rank])
        self.all_reduce_sum()  # all rows are written
        part = self.rows[:, numbers * self.rank // self.size:numbers * (self.rank + 1) // self.size]
        numpy.add.reduce(part[:-1], out=part[-1])
        part[-1] /= self.size
        self.all_reduce_sum()  # all parts are added up
        spread(self.rows[-1], arrays)

    def all_reduce_sum(self, *numbers: float) -> Sequence[float]:
        """Process 0 adds, in the order of the ranks. There it raises RuntimeError if another has ended."""
        if self.rank > 0:
            try:
                self.connections[0].send(numbers)
                return self.connections[0].recv()
            except (EOFError, OSError):
                os._exit(1)  # process 0 has ended, and has said why
        lists = [numbers, *(self._receive(rank) for rank in range(1, self.size))]
        sums = [sum(values) for values in zip(*lists, strict=True)]
        for rank, connection in enumerate(self.connections, 1):
            try:
                connection.send(sums)
            except OSError:  # it has ended since it sent its numbers
                self._receive(rank)
        return sums

    def _receive(self, rank: int) -> Sequence[float]:
        try:
            answer = self.connections[rank - 1].recv()
        except (EOFError, OSError):
            answer = "it was killed, perhaps for want of memory"
        if isinstance(answer, str):
            raise RuntimeError(f"process {rank} of the run has ended: {answer}")
        return answer

    def _shared(self, shape: tuple[int, int], dtype: numpy.dtype) -> numpy.ndarray:
        """An array in memory that all processes share."""
        size = shape[0] * shape[1] * dtype.itemsize
        self.all_reduce_sum()  # no process still reads what was there before
        os.ftruncate(self.file, size)  # the first to do so changes the size
        return numpy.frombuffer(mmap.mmap(self.file, size), dtype).reshape(shape)


def process_count(batch_size: int, weights: int) -> int:
    """How many processes train a network fastest on the CPU of this machine.

    batch_size: images of a step. weights: how many numbers the network trains.
    The count is at most that of threads, and such that shards are equal and hold MIN_SHARD images or more. It
    is 1 for more than MAX_WEIGHTS weights, on a GPU, and where processes cannot be forked.
    """
    # only on Linux is forking safe with all libraries
    if weights > MAX_WEIGHTS or sys.platform != "linux" or backend.current() is not numpy:
        return 1
    counts = range(1, threads.thread_count() + 1)
    return max(count for count in counts if count == 1 or batch_size % count == 0 and
               batch_size // count >= MIN_SHARD)


@contextmanager
def forked(count: int) -> Iterator[Group]:
    """Within this context there are `count` processes, which divide the cores among them; after it only this
    one, process 0, is left.

    The body runs in all of them. The others print nothing, and end where the context ends. An error in one of
    them is raised in process 0 when it next waits for that one.
    Enter it only while NumPy is in use: the state of a GPU does not survive a fork.
    Raises ValueError for a count below 1, OSError where the system has no fork, or no memory or process left.
    """
    if count < 1:
        raise ValueError(f"{count} processes: expected 1 or more")
    if count == 1:
        yield SINGLE_PROCESS
        return
    if not hasattr(os, "fork"):
        raise OSError(f"{count} processes need a system that can fork, such as Linux: take one")
    children: dict[int, Connection] = {}  # of process 0, by process id
    with threads.shared_among(count), _file_in_memory() as file:
        try:
            rank, connections = _fork(count, children)
            with _in_child(connections[0]) if rank > 0 else nullcontext():
                yield ForkedGroup(rank, count, connections, file.fileno())
        finally:
            for connection in children.values():
                connection.close()  # children that still wait for process 0 end now
            for child in children:
                with suppress(ChildProcessError):  # where SIGCHLD is ignored, or the program waits for all
                    os.waitpid(child, 0)


@contextmanager
def _in_child(connection: Connection) -> Iterator[None]:
    """In a child: nothing is printed, and the process ends with the context, after an error telling process
    0 why."""
    try:
        # not the file descriptors: a notebook's output does not go there
        sys.stdout = sys.stderr = open(os.devnull, "w", errors="replace")
        yield
    except BaseException as error:
        expected = isinstance(error, (ValueError, OSError, FloatingPointError, RuntimeError, MemoryError))
        connection.send(str(error) or type(error).__name__ if expected else traceback.format_exc())
    finally:
        os._exit(0)  # process 0 knows from the connection how it ended


def _fork(count: int, children: dict[int, Connection]) -> tuple[int, list[Connection]]:
    """Fork into `count` processes. Returns in each its rank and its connections, and keeps the children."""
    sys.stdout.flush(), sys.stderr.flush()  # or the children would print it again
    for rank in range(1, count):
        ours, theirs = Pipe()
        with warnings.catch_warnings():  # of threads: they are BLAS's, which can be forked
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            for connection in (ours, *children.values()):
                connection.close()  # held open by a child, a pipe would not end with process 0
            return rank, [theirs]
        theirs.close()
        children[child] = ours
    return 0, list(children.values())


def _file_in_memory() -> IO[bytes]:
    """On Linux in memory, but not in /dev/shm: it is small in containers, and writing to a full one kills."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("tinyres"), "w+b")
    return tempfile.TemporaryFile()
