"""What control groups allow, wherever the limit is and however they are mounted."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.bundle import control_groups
from app.bundle.control_groups import cpu_quota, memory_limit_bytes

MACHINE_BYTES = 16 << 30
GIB = 1 << 30
Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Write what the kernel shows: the lines of /proc/self/cgroup, those of the mounts, and files of groups."""
    for name in ("GROUPS", "MOUNTS", "MACHINE"):
        monkeypatch.setattr(control_groups, name, tmp_path / name)

    def write(groups: str, mounts: list[tuple[str, str, str]], **files: str) -> None:
        (tmp_path / "GROUPS").write_text(groups)
        (tmp_path / "MACHINE").write_text(f"MemTotal:       {MACHINE_BYTES // 1024} kB\nMemFree: 1 kB\n")
        (tmp_path / "MOUNTS").write_text(
            "23 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
            + "".join(
                f"31 23 0:28 {root} {tmp_path}/{point} rw,relatime shared:9 - {kind.partition(':')[0]} cgroup rw,{kind.partition(':')[2]}\n"
                for kind, root, point in mounts
            )
        )
        for path, content in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(content)

    return write


VERSION_2 = [("cgroup2", "/", "fs")]
VERSION_1 = [("cgroup:cpu,cpuacct", "/", "fs/cpu"), ("cgroup:memory", "/", "fs/memory")]


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        *(("max 100000\n", None), ("200000 100000\n", 2), ("150000 100000\n", 1.5), ("5000 100000\n", 0.05)),
        *(("", None), ("nonsense", None), ("a b", None), ("1 0", None)),
    ],
)
def test_a_quota_of_the_own_group(machine: Machine, quota: str, expected: float | None) -> None:
    machine("0::/\n", VERSION_2, **{"fs/cpu.max": quota})
    assert cpu_quota() == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1\n", None), ("300000\n", 3), ("250000\n", 2.5), ("", None)])
def test_a_quota_of_version_1(machine: Machine, quota: str, expected: float | None) -> None:
    files = {"fs/cpu/cpu.cfs_quota_us": quota, "fs/cpu/cpu.cfs_period_us": "100000\n"}
    machine("3:cpu,cpuacct:/\n2:memory:/\n", VERSION_1, **files)
    assert cpu_quota() == expected


@pytest.mark.parametrize(("outer", "inner"), [("150000 100000", "max 100000"), ("400000 100000", "150000 100000")])
def test_the_least_quota_of_all_groups_above_counts(machine: Machine, outer: str, inner: str) -> None:
    files = {
        "fs/bert.slice/cpu.max": outer,
        "fs/bert.slice/bert.service/cpu.max": inner,
        "fs/other/cpu.max": "1 100000",
    }
    machine("0::/bert.slice/bert.service\n", VERSION_2, **files)
    assert cpu_quota() == 1.5


def test_the_least_memory_of_all_groups_above_counts(machine: Machine) -> None:
    files = {"fs/a/memory.max": f"{2 * GIB}\n", "fs/a/b/memory.max": f"{4 * GIB}\n", "fs/a/b/c/memory.max": "max\n"}
    machine("0::/a/b/c\n", VERSION_2, **files)
    assert memory_limit_bytes() == 2 * GIB


def test_nested_groups_of_version_1(machine: Machine) -> None:
    files = {
        "fs/cpu/a/cpu.cfs_quota_us": "50000", "fs/cpu/a/cpu.cfs_period_us": "100000",
        "fs/cpu/a/b/cpu.cfs_quota_us": "-1", "fs/cpu/a/b/cpu.cfs_period_us": "100000",
        "fs/memory/m/memory.limit_in_bytes": str(3 * GIB), "fs/memory/m/n/memory.limit_in_bytes": "9223372036854771712",
    }  # fmt: skip
    machine("3:cpu,cpuacct:/a/b\n2:memory:/m/n\n0::/\n", VERSION_1, **files)
    assert (cpu_quota(), memory_limit_bytes()) == (0.5, 3 * GIB)


def test_a_container_with_the_namespace_of_the_machine(machine: Machine) -> None:
    """Of version 1 the mount is the container's own group; of version 2 it may be all groups."""
    own = {"fs/cpu/cpu.cfs_quota_us": "50000", "fs/cpu/cpu.cfs_period_us": "100000"}
    machine("3:cpu:/docker/abc\n", [("cgroup:cpu", "/docker/abc", "fs/cpu")], **own)
    assert cpu_quota() == 0.5
    machine(
        "0::/docker/def\n", VERSION_2, **{"fs/docker/def/cpu.max": "70000 100000", "fs/docker/cpu.max": "max 100000"}
    )
    assert cpu_quota() == 0.7


def test_a_group_that_cannot_be_seen_leaves_those_above_it(machine: Machine) -> None:
    machine("0::/../elsewhere\n", VERSION_2, **{"fs/cpu.max": "300000 100000"})
    assert cpu_quota() == 3


@pytest.mark.parametrize("limit", ["max", "0", "", f"{64 << 30}", "9223372036854771712"])
def test_without_a_limit_the_memory_of_the_machine_counts(machine: Machine, limit: str) -> None:
    machine("0::/\n", VERSION_2, **{"fs/memory.max": limit})
    assert memory_limit_bytes() == MACHINE_BYTES


def test_without_control_groups_there_is_no_quota(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine("", [])
    assert (cpu_quota(), memory_limit_bytes()) == (None, MACHINE_BYTES)
    for name in ("GROUPS", "MOUNTS", "MACHINE"):
        monkeypatch.setattr(control_groups, name, tmp_path / "missing")
    assert (cpu_quota(), memory_limit_bytes()) == (None, None)


def test_this_machine_has_memory() -> None:
    assert (memory_limit_bytes() or 0) > 1 << 20
