"""The long versions of the tests of test_robustness.py and test_hostile_files.py; prints tries and survivors.

    python tests/benchmarks/faults.py
"""
from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness import finish, kill_at_random, outcome, start  # noqa: E402

KILLS, STEPS = 50, 1200


def kills(folder: Path) -> None:
    finish(start(folder / "undisturbed", STEPS))
    killed = kill_at_random(folder / "killed", STEPS, KILLS)
    same = outcome(folder / "killed") == outcome(folder / "undisturbed")
    print(f"killed {killed} times at random and resumed: final bytes {'the same' if same else 'DIFFERENT'}",
          flush=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        kills(Path(work))
