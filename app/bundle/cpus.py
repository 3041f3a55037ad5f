"""How many CPU cores this process may use, and whether they add 8-bit products exactly.

A container's CPU limit is a quota of the control group, which `os.cpu_count` and the affinity mask do not show. With more
threads than the quota, all of them are throttled.
"""

import math
import os
from pathlib import Path

from app.bundle.control_groups import cpu_quota

CPUINFO = Path("/proc/cpuinfo")


def usable_cpus() -> int:
    """Return the number of cores that the affinity mask and the control groups' quota allow, at least 1."""
    return max(1, math.ceil(cpu_limit()))


def cpu_limit() -> float:
    """Return the cores that this process may keep busy, by the affinity mask and the control groups' quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else min(allowed, quota)


def has_exact_int8_products() -> bool:
    """Return whether the cores have VNNI, which adds 8-bit products in 32 bits.

    Older x86 cores add pairs of them in 16 bits, where sums saturate. If it cannot be found out, the answer is no.
    """
    try:
        flags = next(line for line in CPUINFO.read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return False
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(flags.split())
