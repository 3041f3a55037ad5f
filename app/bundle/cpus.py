"""How many CPU cores this process may use, of which kind they are, and which instruction sets they have.

A container's CPU limit is a quota of the control group, which `os.cpu_count` and the affinity mask do not show. With more
threads than the quota, all of them are throttled.
"""

import math
import os
import platform
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Final

from app.bundle.control_groups import cpu_quota

CPUINFO = Path("/proc/cpuinfo")
_FLAGS: Final[Mapping[str, Sequence[frozenset[str]]]] = {
    name: [frozenset(way.split()) for way in ways]
    for name, *ways in (
        # x86
        ("AVX2", "avx2"),
        ("AVX-512", "avx512f avx512bw avx512dq avx512vl"),
        ("VNNI", "avx512_vnni", "avx_vnni"),
        ("AVX-512 BF16", "avx512_bf16"),
        ("AMX", "amx_tile amx_int8 amx_bf16"),
        # ARM
        ("NEON", "asimd"),
        ("DOTPROD", "asimddp"),
        ("I8MM", "i8mm"),
        ("BF16", "bf16"),
        ("SVE", "sve"),
    )
}
"""Which of Linux's flags, all of one text, are an instruction set."""
EXACT_INT8: Final = frozenset({"VNNI", "DOTPROD", "I8MM"})
"""The sets that add 8-bit products in 32 bits, any of them at several times the rate of fp32."""
FAST_INT8: Final = EXACT_INT8 | {"AVX2"}
"""Those with which int8 is faster than fp32: with AVX2 alone by 1.1 to 1.7, though the kernel that adds exactly is not the fastest."""
BF16: Final = frozenset({"AMX", "AVX-512 BF16", "BF16"})
"""The sets that multiply bf16, any of them at about twice the rate of fp32 or more."""
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


def instruction_sets() -> tuple[str, ...]:
    """Return those of the instruction sets of `_FLAGS` that the cores have, by its names and in its order.

    It is what the kernel offers: a set that it or a hypervisor hides is not there. If it cannot be found out, there is none.
    """
    try:
        with CPUINFO.open(encoding="utf-8", errors="replace") as lines:
            # Of the first core: the kernel offers the same on all. On a large machine the others take long to read.
            line = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        return ()
    flags = set(line.partition(":")[2].split())
    return tuple(name for name, ways in _FLAGS.items() if any(way <= flags for way in ways))


def processor() -> str:
    """Return the architecture, and the model and the instruction sets of the first core as far as the system tells them."""
    try:
        with CPUINFO.open(encoding="utf-8", errors="replace") as lines:
            first = [line for line in takewhile(str.strip, lines) if line.partition(":")[0].strip() in _OF_ITS_KIND]
    except OSError:
        first = []
    return f"{platform.machine()} {platform.system()}\n{''.join(first)}"


def has_exact_int8_products() -> bool:
    """Return whether the cores add 8-bit products in 32 bits.

    Older x86 cores add pairs of them in 16 bits, where sums saturate. If it cannot be found out, the answer is no.
    """
    return not EXACT_INT8.isdisjoint(instruction_sets())


def has_bf16_products() -> bool:
    """Return whether the cores multiply bf16. If it cannot be found out, the answer is no."""
    return not BF16.isdisjoint(instruction_sets())
