"""Several cores for NumPy.

NumPy runs its loops and copies on one core; only BLAS, underneath `matmul`, uses all of them. For the many
small products of a network that is the wrong way round: BLAS waits for its slowest thread at the end of each
product, and the loops in between keep a single core busy. So `parallel_map` limits BLAS to one thread while
it runs, and works on independent slices of a batch side by side, one thread each: NumPy releases Python's
lock meanwhile. Results are the same, bit for bit, with any number of threads. OPENBLAS_NUM_THREADS or
OMP_NUM_THREADS, if set, gives the number of threads, up to the number of cores.
"""
from __future__ import annotations

import contextvars
import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

from . import blas
from .cores import core_count

Item, Result = TypeVar("Item"), TypeVar("Result")

PATIENCE = 10  # seconds that a fork waits for other threads to end what they compute


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """[function(item) for item in items], in several threads; calls must not depend on one another.

    An error in one of them is raised once all threads have ended.
    """
    items = list(items)
    if len(items) == 1:  # BLAS has all cores
        with unforked():
            return [function(items[0])]
    results: list[Any] = [None] * len(items)
    remaining, lock = iter(range(len(items))), threading.Lock()

    def take() -> int | None:  # whichever thread is free takes the next one
        with lock:  # Python's own may be absent
            return next(remaining, None)

    def work() -> None:
        for i in iter(take, None):
            results[i] = function(items[i])

    with single_threaded_blas():
        others: list[Future[None]] = []
        with suppress(RuntimeError):  # when Python ends, no thread begins any more: this one works alone
            for _ in range(min(thread_count(), len(items)) - 1):
                # a copied context carries NumPy's errstate
                others.append(_pool().submit(contextvars.copy_context().run, work))
        try:
            work()
        finally:  # even after an error, no other thread goes on writing
            # a thread that has not begun has nothing left to do
            begun = [other for other in others if not other.cancel()]
            wait(begun)
    for other in begun:
        other.result()
    return results


_contexts, _threads_before = 0, 1  # of single_threaded_blas
_processes = 1  # how many share the machine, this one included
_fork = threading.Condition()  # held during a fork, and while a number here is changed
_forks, _unforked = 0, 0  # how many threads want to fork; are within `unforked`
_inside: ContextVar[bool] = ContextVar("inside", default=False)  # `unforked`, or a part of what is


@contextmanager
def unforked() -> Iterator[None]:
    """Within this context no other thread forks. The copy would have the locks that threads held, in BLAS as
    well, but not these threads; and OpenBLAS ends its own threads before a fork, with all their work."""
    global _unforked
    if _inside.get():
        yield
        return
    with _fork:
        _fork.wait_for(lambda: not _forks)
        _unforked += 1
    token = _inside.set(True)
    try:
        yield
    finally:
        _inside.reset(token)
        with _fork:
            _unforked -= 1
            if _forks:
                _fork.notify_all()


def _before_fork() -> None:
    global _forks
    _fork.acquire()
    _forks += 1
    if not _inside.get():  # or this thread would wait for itself
        _fork.wait_for(lambda: not _unforked, PATIENCE)


def _after_fork() -> None:
    global _forks
    _forks -= 1
    _fork.notify_all()
    _fork.release()


def _after_fork_in_child() -> None:
    """The other threads are not here."""
    global _contexts, _fork, _forks, _unforked
    _fork, _forks, _unforked = threading.Condition(), 0, int(_inside.get())
    _pool.cache_clear()
    if _contexts and not _inside.get():
        blas.thread_functions()[1](_threads_before)
        _contexts = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Within this context BLAS uses one thread; after the last of several such contexts as many as before."""
    global _contexts, _threads_before
    with unforked():
        functions = blas.thread_functions()
        if functions is None:
            yield
            return
        get_threads, set_threads = functions
        with _fork:
            if _contexts == 0:
                _threads_before = get_threads()
                set_threads(1)
            _contexts += 1
        try:
            yield
        finally:
            with _fork:
                _contexts -= 1
                if _contexts == 0:
                    set_threads(_threads_before)


@functools.cache
def thread_count() -> int:
    """How many threads `parallel_map` uses: 1 where BLAS cannot be kept from using all cores in each."""
    return max(1, _threads_of_all_processes() // _processes)


@contextmanager
def shared_among(processes: int) -> Iterator[None]:
    """Within this context this process uses only its share of the threads, as one of `processes`.

    Enter it before the process forks, and from one thread only.
    """
    global _processes
    before, functions = _processes, blas.thread_functions()
    blas_threads = functions[0]() if functions else 1
    try:
        _set_processes(processes * before)
        if functions:
            functions[1](thread_count())
        yield
    finally:
        _set_processes(before)
        if functions:
            functions[1](blas_threads)


def _set_processes(count: int) -> None:
    global _processes
    if _pool.cache_info().currsize:
        _pool().shutdown()
    _pool.cache_clear(), thread_count.cache_clear()
    _processes = count


def _threads_of_all_processes() -> int:
    if not blas.thread_functions():
        return 1
    for name in "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS":
        if os.environ.get(name, "").isdigit():
            return max(1, min(int(os.environ[name]), core_count()))
    return core_count()


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, thread_count() - 1), "tinyres")
