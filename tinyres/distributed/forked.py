"""One training run in several processes of one machine, each on cores of its own.

    with forked(2) as group:
        train(..., Run(folder, config, group=group), ...)

Why it is faster than threads (fast/threads.py): threads take turns at Python's lock for all that happens
between two NumPy calls, which costs a sixth of a small network's time on two cores. Processes share
nothing but the sum of their gradients: each has its shard of every batch, as in distributed.py.

The processes are copies of this one (os.fork), made where the context begins, so data and weights are there
already and take no further memory until somebody writes to them. Gradients meet in a file in memory that all
have mapped; a pipe between process 0 and each other one says when they are there, and ends when either dies.
"""
from __future__ import annotations

import mmap
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import IO, Any, NoReturn

import numpy

from .. import backend
from ..backend import Array
from ..fast.cpu import threads
from .group import SINGLE_PROCESS, Group, spread

MIN_SHARD = 16  # images of a batch; with fewer, what a process does once a step outweighs its part
MAX_WEIGHTS = 2_000_000  # of more, threads share what each process would have to itself: kernels, gradients


class ForkedGroup(Group):
    """Process `rank` of `size` on this machine. connections: of process 0 to all others, of those to it.

    file: an open one that all of them share. Every process must make the same calls in the same order.
    """

    def __init__(self, rank: int, size: int, connections: Sequence[Connection], file: int) -> None:
        self.rank, self.size, self.connections, self.file = rank, size, connections, file
        self.rows: numpy.ndarray | None = None

    def broadcast(self, arrays: Sequence[Array]) -> None:
        """Nothing to do: the processes began as copies of process 0."""

    def all_reduce_mean(self, arrays: Sequence[Array]) -> None:
        """Each process writes its arrays into its own row, adds up its part of all rows into the last one,
        and reads the others' parts there: the same bits in all processes."""
        numbers, dtype = sum(array.size for array in arrays), arrays[0].dtype
        if self.rows is None or (self.rows.shape[1], self.rows.dtype) != (numbers, dtype):
            self.rows = self._shared((self.size + 1, numbers), dtype)
        numpy.concatenate([array.reshape(-1) for array in arrays], out=self.rows[self.rank])
        self.all_reduce_sum()  # all rows are written
        part = slice(numbers * self.rank // self.size, numbers * (self.rank + 1) // self.size)
        for start in range(part.start, part.stop, threads.CHUNK_SIZE):
            chunk = slice(start, min(start + threads.CHUNK_SIZE, part.stop))
            mean = self.rows[-1, chunk]
            numpy.add(self.rows[0, chunk], self.rows[1, chunk], out=mean)
            for row in self.rows[2:-1]:
                mean += row[chunk]
            mean /= self.size
        self.all_reduce_sum()  # all parts are added up
        spread(self.rows[-1], arrays)

    def all_reduce_sum(self, *numbers: float) -> Sequence[float]:
        """By process 0, in the order of the ranks. Raises RuntimeError there if another process has ended."""
        if self.rank > 0:
            try:
                self.connections[0].send(numbers)
                return self.connections[0].recv()
            except (EOFError, OSError):
                os._exit(1)  # process 0 has ended, and said why
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
        self.all_reduce_sum()  # nobody reads what was there before
        if self.rank == 0:
            os.ftruncate(self.file, size)
        self.all_reduce_sum()
        return numpy.frombuffer(mmap.mmap(self.file, size), dtype).reshape(shape)


def process_count(batch_size: int, weights: int) -> int:
    """How many processes train a network of so many weights fastest on this machine's CPU.

    As many as there would be threads, as long as all shards are equal and hold MIN_SHARD images; 1 for more
    than MAX_WEIGHTS, where a GPU computes, and where processes cannot be forked."""
    # elsewhere than on Linux forking is not safe with all libraries
    if weights > MAX_WEIGHTS or sys.platform != "linux" or backend.current() is not numpy:
        return 1
    counts = range(1, threads.thread_count() + 1)
    return max(count for count in counts if count == 1 or batch_size % count == 0 and
               batch_size // count >= MIN_SHARD)


@contextmanager
def forked(count: int) -> Iterator[Group]:
    """Within this context there are `count` processes, which part the cores among them; after it only this
    one, process 0.

    The others print nothing, and end where the context ends. An error in one of them is raised in process 0
    when it next waits for that one.
    To be entered with NumPy alone in use: a GPU's state does not survive a fork.
    Raises OSError where the system has no fork, or no process or memory left.
    """
    if count == 1:
        yield SINGLE_PROCESS
        return
    if not hasattr(os, "fork"):
        raise OSError(f"{count} processes need a system that can fork, such as Linux: take one")
    with threads.shared_among(count), _file_in_memory() as file:
        connections, children = [], []
        sys.stdout.flush(), sys.stderr.flush()  # or the copies would print it again
        try:
            for rank in range(1, count):  # noqa: B007
                ours, theirs = Pipe()
                if (child := _fork()) == 0:
                    ours.close()  # held open by a copy, the pipe would not end with process 0
                    break
                theirs.close()
                connections.append(ours), children.append(child)
            else:
                yield ForkedGroup(0, count, connections, file.fileno())
                return
            # only the copies come here; the body of the context runs in them too
            try:
                # not the file descriptors: a notebook's output does not go there
                sys.stdout = sys.stderr = open(os.devnull, "w")
                yield ForkedGroup(rank, count, [theirs], file.fileno())
            except BaseException as error:
                _end(theirs, error)
            os._exit(0)
        finally:
            for connection in connections:
                connection.close()  # those that still wait for process 0 end now
            for child in children:
                with suppress(ChildProcessError):  # where SIGCHLD is ignored, or the program waits for all
                    os.waitpid(child, 0)


def _fork() -> int:
    with warnings.catch_warnings():  # that the process has threads: those of BLAS, which knows about forks
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _file_in_memory() -> IO[bytes]:
    """On Linux in memory, and not in /dev/shm, which is small in containers; to write to a full one kills."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("tinyres"), "w+b")
    return tempfile.TemporaryFile()


def _end(connection: Connection, error: BaseException) -> NoReturn:
    """End this process, not the first one, and tell that one why."""
    expected = isinstance(error, (ValueError, OSError, FloatingPointError, RuntimeError, MemoryError))
    text: Any = str(error) or type(error).__name__ if expected else "".join(traceback.format_exception(error))
    try:
        connection.send(text)
    finally:
        os._exit(1)
