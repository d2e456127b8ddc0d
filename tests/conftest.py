"""The backend fixture: one test body, run on NumPy and, where a GPU works, on CuPy."""
from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest

import tinyres as tr


@pytest.fixture(params=["numpy", "cupy"])
def xp(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The array library in use for the length of a test."""
    if request.param == "cupy" and not tr.backend.gpu_available():
        pytest.skip(f"no CuPy here: {tr.backend.why_no_gpu()}")
    yield tr.backend.use(request.param)
    tr.backend.use("numpy")
