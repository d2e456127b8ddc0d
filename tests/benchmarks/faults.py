"""The long version of test_hostile_files.py; prints how many tries were survived.

    python tests/benchmarks/faults.py
"""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.mutations import READERS  # noqa: E402

MUTATIONS = 1000


def mutations() -> None:
    for kind in READERS:
        done = subprocess.run([sys.executable, "-m", "support.mutations", str(MUTATIONS), "0", kind],
                              capture_output=True, text=True, cwd=Path(__file__).resolve().parent.parent)
        outcome = done.stdout.strip() if done.returncode == 0 else f"FAILED: {done.stderr[-500:]}"
        print(f"{MUTATIONS} mutations of a {kind}: {outcome}", flush=True)


if __name__ == "__main__":
    mutations()
