"""How many CPU cores this process may use, and which products they have.

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
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(_flags())


def has_bf16_products() -> bool:
    """Return whether the cores multiply bf16. If it cannot be found out, the answer is no."""
    return not {"amx_bf16", "avx512_bf16", "bf16"}.isdisjoint(_flags())  # the last is ARM's


def _flags() -> list[str]:
    """Return what the cores can do, as Linux calls it; nothing if it does not tell."""
    try:
        lines = CPUINFO.read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features"))).split()
    except (OSError, StopIteration):
        return []
