"""How many CPU cores this process may use, of which kind they are, and whether they add 8-bit products exactly.

A container's CPU limit is a quota of the control group, which `os.cpu_count` and the affinity mask do not show. With more
threads than the quota, all of them are throttled.
"""

import math
import os
import platform
from itertools import takewhile
from pathlib import Path
from typing import Final

from app.bundle.control_groups import cpu_quota

CPUINFO = Path("/proc/cpuinfo")
_OF_ITS_KIND: Final = frozenset(
    {"vendor_id", "cpu family", "model", "model name", "stepping", "cache size", "flags"}
    | {"CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"}
)
"""What Linux says of a core of x86 or ARM that is the same for each of its kind, unlike its number and clock."""


def usable_cpus() -> int:
    """Return the number of cores that the affinity mask and the control groups' quota allow, at least 1."""
    return max(1, math.ceil(cpu_limit()))


def cpu_limit() -> float:
    """Return the cores that this process may keep busy, by the affinity mask and the control groups' quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return allowed if quota is None else min(allowed, quota)


def processor() -> str:
    """Return the architecture, and the model and the instruction sets of the first core as far as the system tells them."""
    try:
        with CPUINFO.open(
            encoding="utf-8", errors="replace"
        ) as lines:  # as long as there are cores: read only the first one
            first = [line for line in takewhile(str.strip, lines) if line.partition(":")[0].strip() in _OF_ITS_KIND]
    except OSError:
        first = []
    return f"{platform.machine()} {platform.system()}\n{''.join(first)}"


def has_exact_int8_products() -> bool:
    """Return whether the cores have VNNI, which adds 8-bit products in 32 bits.

    Older x86 cores add pairs of them in 16 bits, where sums saturate. If it cannot be found out, the answer is no.
    """
    try:
        flags = next(line for line in CPUINFO.read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return False
    return not {"avx512_vnni", "avx_vnni"}.isdisjoint(flags.split())
