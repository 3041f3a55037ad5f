"""How many CPU cores this process may use, and whether they add 8-bit products exactly.

A container's CPU limit is a quota of the control group, which `os.cpu_count` and the affinity mask do not show. With more
threads than the quota, all of them are throttled. Imports nothing of the project.
"""

import math
import os
from pathlib import Path

CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
CGROUP_V1 = Path("/sys/fs/cgroup/cpu")
CPUINFO = Path("/proc/cpuinfo")


def usable_cpus() -> int:
    """Return the number of cores that the affinity mask and the control group's quota allow, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota() -> float | None:
    """Return the control group's quota in cores, or None without a readable limit."""
    try:
        if CGROUP_V2.exists():
            quota, period = CGROUP_V2.read_text().split()
        else:
            quota = (CGROUP_V1 / "cpu.cfs_quota_us").read_text()
            period = (CGROUP_V1 / "cpu.cfs_period_us").read_text()
        return None if quota == "max" or int(quota) <= 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def has_exact_int8_products() -> bool:
    """Return whether the cores have VNNI, which adds 8-bit products in 32 bits.

    Older x86 cores add pairs of them in 16 bits, where sums saturate. If it cannot be found out, the answer is no.
    """
    try:
        flags = next(line for line in CPUINFO.read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return False
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(flags.split())
