"""The long versions of test_robustness.py and test_hostile_files.py; prints how many tries were survived.

    python tests/benchmarks/faults.py
"""
from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.harness import finish, kill_at_random, outcome, start  # noqa: E402
from support.mutations import READERS  # noqa: E402

KILLS, STEPS, MUTATIONS = 50, 1200, 1000


def kills(folder: Path) -> None:
    finish(start(folder / "undisturbed", STEPS))
    killed = kill_at_random(folder / "killed", STEPS, KILLS)
    same = outcome(folder / "killed") == outcome(folder / "undisturbed")
    print(f"killed {killed} times at random and resumed: final bytes {'the same' if same else 'DIFFERENT'}",
          flush=True)


def mutations() -> None:
    for kind in READERS:
        done = subprocess.run([sys.executable, "-m", "support.mutations", str(MUTATIONS), "0", kind],
                              capture_output=True, text=True, cwd=Path(__file__).resolve().parent.parent)
        outcome = done.stdout.strip() if done.returncode == 0 else f"FAILED: {done.stderr[-500:]}"
        print(f"{MUTATIONS} mutations of a {kind}: {outcome}", flush=True)


if __name__ == "__main__":
    mutations()
    with tempfile.TemporaryDirectory() as work:
        kills(Path(work))
