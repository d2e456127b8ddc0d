"""What a user reads where NumPy or Pillow is missing, too old or slow: one line, with the remedy."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.harness import ROOT, SETTINGS, WORKER

from tinyres.fast.cpu import blas
from tinyres.support import requirements

PROGRAMS = [["run_cifar.py", "--demo"], ["run_imagenet.py", "--demo"], ["-m", "tinyres.lessons.graph"],
            ["-m", "tinyres.lessons.exercises"], ["-m", "tinyres.theory.linear_report"],
            ["-m", "tinyres.experiments.depth"]]


def python(arguments: list[str], path: Path | None, *options: str) -> subprocess.CompletedProcess[str]:
    """Python in the checkout, with modules in `path` before all others."""
    environment = {**os.environ, "PYTHONPATH": str(path or "")}
    return subprocess.run([sys.executable, *options, *arguments], cwd=ROOT, env=environment, text=True,
                          capture_output=True, timeout=120)


def fake(folder: Path, name: str, version: str) -> Path:
    """A folder with a module of that name and version, and nothing in it."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(f"__version__ = {version!r}\n")
    return folder


@pytest.mark.parametrize("arguments", PROGRAMS, ids=" ".join)
def test_an_old_numpy_is_named_in_one_line_with_the_remedy(tmp_path, arguments):
    done = python(arguments, fake(tmp_path, "numpy", "1.24.2"))
    assert done.returncode == 1 and not done.stdout
    line, = done.stderr.splitlines()
    assert "NumPy 2.0 or newer" in line and "1.24.2" in line and "pip install --upgrade 'numpy>=2.0'" in line


@pytest.mark.parametrize("arguments", PROGRAMS, ids=" ".join)
def test_no_numpy_at_all_is_one_line_too(arguments):
    done = python(arguments, None, "-S")  # without the folder of installed packages
    line, = done.stderr.splitlines()
    assert done.returncode == 1 and "NumPy 2.0 or newer" in line and "not installed" in line


@pytest.mark.parametrize("version", ["10.0.1", "9.4.0"])
def test_an_old_pillow_is_named_in_one_line(tmp_path, version):
    line, = python(["run_cifar.py"], fake(tmp_path, "PIL", version)).stderr.splitlines()
    assert "Pillow 10.1 or newer" in line and version in line and "'pillow>=10.1'" in line


def test_an_import_raises_an_error_that_programs_can_catch(tmp_path):
    program = "try:\n    import tinyres\nexcept ImportError as error:\n    print(error)"
    done = python(["-c", program], fake(tmp_path, "numpy", "1.26.4"))
    assert not done.stderr and "1.26.4" in done.stdout and "NumPy 2.0 or newer" in done.stdout


def test_a_damaged_numpy_says_itself_what_is_wrong(tmp_path):
    (fake(tmp_path, "numpy", "") / "numpy" / "__init__.py").write_text("import module_of_another_python")
    assert "module_of_another_python" in python(["run_cifar.py"], tmp_path).stderr


def test_what_is_checked_is_what_an_installation_asks_for():
    listed = re.search(r"^dependencies = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert listed == ", ".join(f'"{name.lower()}>={needed}"' for _, name, needed in requirements.NEEDED)


# the loops of the reference BLAS, under the name that the OpenBLAS in NumPy's wheels gives to cblas_sgemm
SLOW_BLAS = """
#include <stdint.h>
void scipy_cblas_sgemm64_(int order, int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k,
                          float alpha, const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                          float *c, int64_t ldc) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++) {
            float sum = 0;
            for (int64_t l = 0; l < k; l++)
                sum += (transpose_a == 111 ? a[i * lda + l] : a[l * lda + i])
                     * (transpose_b == 111 ? b[l * ldb + j] : b[j * ldb + l]);
            c[i * ldc + j] = alpha * sum + (beta == 0 ? 0 : beta * c[i * ldc + j]);
        }
}
"""


@pytest.mark.skipif(blas.thread_functions() is None or not shutil.which("gcc") or sys.platform != "linux",
                    reason="needs gcc, and the OpenBLAS that ships with NumPy")
def test_a_slow_blas_is_named_at_the_start_of_a_run(tmp_path, monkeypatch):
    arguments = ["-c", WORKER, str(ROOT), "0", *SETTINGS, "--steps", "2", "--dry-run", "--backend", "numpy"]
    printed = python(arguments, None).stdout
    assert "slow BLAS" not in printed and "Dry run" in printed
    (tmp_path / "blas.c").write_text(SLOW_BLAS)
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", "blas.so", "blas.c"], cwd=tmp_path, check=True)
    monkeypatch.setenv("LD_PRELOAD", str(tmp_path / "blas.so"))
    line, = [line for line in python(arguments, None).stdout.splitlines() if "slow BLAS" in line]
    assert "pip install" in line and "OpenBLAS" in line


def test_the_check_of_blas_takes_milliseconds():
    times = []
    for _ in range(5):
        start = time.perf_counter()
        blas.is_slow()
        times.append(time.perf_counter() - start)
    assert min(times) < 0.02
