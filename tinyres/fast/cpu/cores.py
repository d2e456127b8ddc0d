"""How many cores this process may use, which in a container can be far fewer than the machine has."""
from __future__ import annotations

import math
import os
from pathlib import Path, PurePosixPath


def core_count() -> int:
    """How many cores this process may use: as its affinity says, and on Linux its control group's quota of
    processor time, of which a part of a core counts as one."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(count, quota())))


def quota(root: Path = Path("/")) -> float:
    """The cores whose time the control groups of this process, and those above, grant it; infinity if all.

    root: the folder that holds /proc and /sys. Control groups are of version 1, 2, or both at once:
    https://docs.kernel.org/admin-guide/cgroup-v2.html
    """
    cores, mounted = math.inf, root / "sys/fs/cgroup"
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return cores
    for number, controllers, group in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if number == "0":  # version 2
            hierarchies = [mounted, mounted / "unified"]
        elif "cpu" in controllers.split(","):
            hierarchies = [mounted / controllers, mounted / "cpu"]
        else:
            continue
        path = PurePosixPath(group.lstrip("/"))
        # in a container the group's own path may lead nowhere, and the top is the group
        for folder in (hierarchy / above for hierarchy in hierarchies for above in (path, *path.parents)):
            cores = min(cores, _limit(folder))
    return cores


def _limit(group: Path) -> float:
    """The cores that one control group grants: its microseconds in each period."""
    for names in ("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"):
        try:
            granted, period = " ".join((group / name).read_text() for name in names).split()
            if granted not in ("max", "-1"):
                return int(granted) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return math.inf
