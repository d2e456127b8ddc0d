"""A run of several files of tests, shared among processes forked from one, as many as there are cores."""
from __future__ import annotations

import itertools
import os
import signal
import sys
import traceback
import warnings
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import NoReturn

import pytest

import tinyres as tr
from tinyres.fast.cpu import blas as openblas
from tinyres.fast.cpu.cores import core_count


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Each process takes the next file that none has taken yet, and sends what became of its tests.

    None where pytest is to run them itself: a single file or core, a debugger or output that is not captured,
    a GPU, whose state does not survive a fork, or another plugin that shares them out.
    """
    config = session.config
    files = [list(items) for _, items in itertools.groupby(session.items, key=lambda item: item.path)]
    count = min(core_count(), len(files))
    serial = config.option.collectonly or config.option.usepdb or config.option.capture == "no"
    if (serial or count < 2 or len(files) > 255 or session.testsfailed or hasattr(config, "workerinput")
            or sys.platform != "linux" or tr.backend.gpu_available()):
        return None
    config._tmp_path_factory.getbasetemp()  # one for all
    queue, end = os.pipe()
    os.write(end, bytes(range(len(files))))
    os.close(end)
    processes: dict[Connection, int] = {}
    try:
        for _ in range(count):
            ours, theirs = Pipe(duplex=False)
            process = _fork()
            if process == 0:
                _work(session, files, queue, theirs)
            theirs.close()
            processes[ours] = process
        _listen(session, files, list(processes))
    finally:
        for process in processes.values():
            os.kill(process, signal.SIGINT)  # ends it even after an error here
            os.waitpid(process, 0)
        os.close(queue)
    return True


def _fork() -> int:
    sys.stdout.flush(), sys.stderr.flush()
    with warnings.catch_warnings():  # of threads: they are BLAS's, which can be forked
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _work(session: pytest.Session, files: list[list[pytest.Item]], queue: int,
          sender: Connection) -> NoReturn:
    """In a process of its own: run files and send the reports of each, or why it had to end."""
    hook, plugins = session.config.hook, session.config.pluginmanager
    reports: list[object] = []

    class Recorder:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            reports.append(hook.pytest_report_to_serializable(config=session.config, report=report))

    try:
        plugins.register(Recorder())
        capture = plugins.getplugin("capturemanager")
        capture.stop_global_capturing()  # into a file that all processes would share
        nowhere = os.open(os.devnull, os.O_WRONLY)  # the first process prints the reports
        os.dup2(nowhere, 1), os.dup2(nowhere, 2)
        capture.start_global_capturing()
        if functions := openblas.thread_functions():
            functions[1](1)  # the other cores have other files
        while number := os.read(queue, 1):
            items = files[number[0]]
            for item, following in itertools.zip_longest(items, items[1:]):
                if not session.shouldfail and not session.shouldstop:
                    hook.pytest_runtest_protocol(item=item, nextitem=following)
            sender.send((number[0], reports))
            reports.clear()
    except Exception:
        sender.send((None, traceback.format_exc()))
    finally:
        os._exit(0)


def _listen(session: pytest.Session, files: list[list[pytest.Item]], receivers: list[Connection]) -> None:
    """Report what the processes send, a file at a time."""
    config, hook = session.config, session.config.hook
    left = {number: items[0].path.name for number, items in enumerate(files)}
    while left and receivers:
        for receiver in wait(receivers):
            try:
                number, reports = receiver.recv()
            except EOFError:
                receivers.remove(receiver)
                continue
            if number is None:
                raise RuntimeError(reports)
            del left[number]
            for data in reports:
                report = hook.pytest_report_from_serializable(config=config, data=data)
                if report.when == "setup":
                    hook.pytest_runtest_logstart(nodeid=report.nodeid, location=report.location)
                hook.pytest_runtest_logreport(report=report)
                if report.when == "teardown":
                    hook.pytest_runtest_logfinish(nodeid=report.nodeid, location=report.location)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
    if left:
        raise RuntimeError(f"the processes have ended before the tests in {', '.join(left.values())}")
