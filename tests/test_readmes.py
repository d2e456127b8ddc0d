"""What the READMEs say: their links lead somewhere, and their Python runs as it stands."""
from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import tinyres as tr

ROOT = Path(__file__).resolve().parent.parent
READMES = sorted(path for folder in ("", "data", "data/results", "tinyres", "tinyres/*")
                 for path in ROOT.glob(f"{folder}/*.md".lstrip("/")))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    """The blocks of code of a language in a README."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", READMES, ids=name)
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, heading = target.partition("#")
        if file.startswith(("http://", "https://")):
            continue
        there = (path.parent / file.replace("\\", "")).resolve() if file else path
        assert there.exists(), f"{name(path)} links to {target}"
        if heading:
            headings = [re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
                        for line in there.read_text().splitlines() if line.startswith("#")]
            assert heading in headings, f"{name(path)} links to {target}"


@pytest.mark.parametrize("path", [path for path in READMES if blocks(path, "python")], ids=name)
def test_python_runs_as_it_stands(path, capsys):
    names: dict[str, object] = {}
    variants = {kernel: list(kernel.variants) for kernel in tr.kernel.KERNELS}
    try:
        for block in blocks(path, "python"):
            exec(compile(block, name(path), "exec"), names)
    finally:  # one README registers a variant, one chooses the library
        tr.backend.use("numpy")
        for kernel, before in variants.items():
            kernel.variants[:] = before
    if path == ROOT / "README.md":
        error = re.search(r"test error ([\d.]+)%", capsys.readouterr().out)
        assert float(error.group(1)) < 25, "guessing has 90"


def test_the_first_page_is_short_and_says_what_ci_runs():
    text = (ROOT / "README.md").read_text()
    assert len(text) <= 12_000
    install, test = [line for block in blocks(ROOT / "README.md", "") for line in block.splitlines()
                     if line.startswith(("python3 -m venv", "pip install"))]
    assert install.endswith("python run_cifar.py --demo")
    assert test in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_short_path_is_short():
    files = "backend", "kernel", "tensor", "arithmetic", "ops", "conv", "gradcheck"
    assert sum(len((ROOT / "tinyres" / f"{file}.py").read_text()) for file in files) <= 30_000


def test_everything_that_the_package_needs_is_package_data():
    """What is not Python and tracked in tinyres/ goes into a wheel."""
    line = re.search(r"^tinyres = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    found = {file for pattern in re.findall(r'"(.*?)"', line[1]) for file in (ROOT / "tinyres").glob(pattern)}
    try:
        listed = subprocess.run(["git", "ls-files", "tinyres"], cwd=ROOT, capture_output=True, text=True,
                                check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    data = {ROOT / file for file in listed if not file.endswith(".py")}
    assert data <= found, f"not in package-data: {data - found}"
