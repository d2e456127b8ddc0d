"""What all benchmarks begin with: an environment like that of users, and a line that says what is measured.

Variables such as OPENBLAS_CORETYPE restrict NumPy's BLAS to the kernels of another processor, at half the
speed, but leave PyTorch alone. A benchmark that finds one starts itself again without it.
"""
from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy

from tinyres.fast.cpu import blas
from tinyres.fast.cpu.cores import core_count

FOREIGN = "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_VERBOSE"


def begin(keep: str | None = None) -> None:
    """Start again without FOREIGN variables if any are set; otherwise print the machine and the libraries.

    keep: the processor whose kernels are asked for, in OPENBLAS_CORETYPE.
    """
    if found := [name for name in FOREIGN if name in os.environ and os.environ[name] != keep]:
        settings = ", ".join(f"{name}={os.environ[name]}" for name in found)
        print(f"Measured without {settings}, which is set in this environment.", flush=True)
        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        sys.exit(subprocess.call([sys.executable, *sys.argv], env=environment))
    built = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    print(f"{_processor()}, {core_count()} cores; {built['name']} {built['version']} with kernels for "
          f"{blas.kernels() or 'an unknown processor'}; NumPy {numpy.__version__}; "
          f"PyTorch {_version('torch')}; Python {platform.python_version()}", flush=True)


def again(*arguments: str, **variables: str) -> None:
    """Run this benchmark with these arguments in a process of its own, with these variables set."""
    subprocess.run([sys.executable, sys.argv[0], *arguments], env={**os.environ, **variables}, check=True)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    values = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name = values.get("model name", platform.machine())
    return f"{name} (family {values.get('cpu family')}, model {values.get('model')})"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
