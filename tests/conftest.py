"""The backend fixture: one test body, run on NumPy and, where a GPU works, on CuPy."""
from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from types import ModuleType

import pytest
from support.sharing import pytest_runtestloop  # noqa: F401 a hook

import tinyres as tr


@pytest.fixture(params=["numpy", "cupy"])
def xp(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The array library in use for the length of a test."""
    if request.param == "cupy" and not tr.backend.gpu_available():
        pytest.skip(f"no CuPy here: {tr.backend.why_no_gpu()}")
    yield tr.backend.use(request.param)
    tr.backend.use("numpy")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason to skip, where -rs has one for each place."""
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ")
                      for report in terminalreporter.stats.get("skipped", []))
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason}")
