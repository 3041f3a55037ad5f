"""What this process may use by its control groups, by which containers and services share a machine.

Imports nothing of the project.

A limit holds for all groups below it, so the least from the process's own group up to the root counts: systemd limits a slice
above the service, and a container that shares the machine's namespace is in a group of its own below the mounted root.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

GROUPS: Final = Path("/proc/self/cgroup")
MOUNTS: Final = Path("/proc/self/mountinfo")
MACHINE: Final = Path("/proc/meminfo")


def cpu_quota() -> float | None:
    """Return the quota in cores, or None without a readable limit."""
    quotas = [_quota_2(group) if version == 2 else _quota_1(group) for version, group in _groups("cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def memory_limit_bytes() -> int | None:
    """Return the least of the groups' limits and the machine's memory, bytes, or None if nothing can be read."""
    names = {1: "memory.limit_in_bytes", 2: "memory.max"}
    limits = [_number(_read(group / names[version])) for version, group in _groups("memory")]
    total = next((line.split()[1] for line in _read(MACHINE).splitlines() if line.startswith("MemTotal:")), "")
    machine = _number(total)
    return min((limit for limit in (*limits, machine and machine * 1024) if limit is not None), default=None)


def memory_left_bytes() -> int | None:
    """Return how much more memory this process can have, bytes, or None if nothing can be read.

    That is the least of what the groups' limits leave, where the cache of files counts as free, and of the machine's.
    """
    lefts = []
    for version, group in _groups("memory"):
        names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}[version]
        limit, used = (_number(_read(group / name)) for name in names)
        if limit is not None and used is not None:
            lefts.append(limit - used + _cached(_read(group / "memory.stat")))
    available = next((line.split()[1] for line in _read(MACHINE).splitlines() if line.startswith("MemAvailable:")), "")
    machine = _number(available)
    return min((*lefts, *([] if machine is None else [machine * 1024])), default=None)


def _cached(statistics: str) -> int:
    """Return the bytes of files that the kernel drops before it refuses memory."""
    values = dict(line.split() for line in statistics.splitlines())
    return int(values.get("total_inactive_file", values.get("inactive_file", 0)))


def _quota_2(group: Path) -> float | None:
    quota, _, period = _read(group / "cpu.max").partition(" ")
    return _ratio(quota, period)


def _quota_1(group: Path) -> float | None:
    return _ratio(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    over, under = _number(quota), _number(period)
    return over / under if over and under else None


def _number(text: str) -> int | None:
    """Return a number above 0, or None for `max`, -1 and what is no number."""
    text = text.strip()
    return int(text) or None if text.isascii() and text.isdigit() else None


class _Mount(NamedTuple):
    version: int
    root: str
    """The group that is mounted there."""
    point: Path
    options: list[str]


def _groups(controller: str) -> Iterator[tuple[int, Path]]:
    """Yield the version and the folder of this process's group and of each one above it that can be seen."""
    paths = {}
    for line in _read(GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            paths[2] = path
        elif controller in controllers.split(","):
            paths[1] = path
    for mount in _mounts():
        if mount.version in paths and (mount.version == 2 or controller in mount.options):
            for group in _upwards(mount, paths[mount.version]):
                yield mount.version, group


def _mounts() -> Iterator[_Mount]:
    for line in _read(MOUNTS).splitlines():
        # See proc_pid_mountinfo(5): optional fields end with a dash.
        place, _, kind = line.partition(" - ")
        filesystem, _, options = kind.split(" ", 2)
        if filesystem in ("cgroup", "cgroup2"):
            root, point = place.split(" ")[3:5]
            version = 2 if filesystem == "cgroup2" else 1
            yield _Mount(version, root, Path(_unescaped(point)), options.split(","))


def _upwards(mount: _Mount, path: str) -> Iterator[Path]:
    """Yield the folders of a group and of those above it, up to the one that is mounted."""
    # With the machine's namespace, a container's mount shows its own group, under its path on the machine.
    inside = path.removeprefix(mount.root.rstrip("/")) if path.startswith(mount.root) else path
    group = mount.point / inside.strip("/")
    while group != mount.point:
        yield group
        group = group.parent
    yield group


def _unescaped(path: str) -> str:
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
