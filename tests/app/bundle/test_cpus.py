"""How many cores a process may use, by its affinity and its control group's quota, and what they can."""

import os
from pathlib import Path

import pytest

from app.bundle import cpus


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of eight cores whose control group a test writes."""
    monkeypatch.setattr(cpus, "CGROUP_V2", tmp_path / "cpu.max")
    monkeypatch.setattr(cpus, "CGROUP_V1", tmp_path / "cpu")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path


def version_1(group: Path, quota: str, period: str) -> None:
    (group / "cpu").mkdir()
    (group / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (group / "cpu" / "cpu.cfs_period_us").write_text(period)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("", 8),
        ("nonsense", 8),
        ("a b", 8),
    ],
)
def test_the_quota_of_version_2(group: Path, quota: str, expected: int) -> None:
    (group / "cpu.max").write_text(quota)
    assert cpus.usable_cpus() == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1\n", 8), ("300000\n", 3), ("250000\n", 3), ("", 8)])
def test_the_quota_of_version_1(group: Path, quota: str, expected: int) -> None:
    version_1(group, quota, "100000\n")
    assert cpus.usable_cpus() == expected


def test_without_a_control_group_there_is_no_quota(group: Path) -> None:
    assert cpus.usable_cpus() == 8


def test_a_smaller_affinity_mask_wins(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (group / "cpu.max").write_text("400000 100000")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5}, raising=False)
    assert cpus.usable_cpus() == 2


def test_without_affinity_all_cores_count(group: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.usable_cpus() == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\n", True),
        ("flags\t\t: avx2 avx_vnni sha_ni\n", True),
        ("flags\t\t: avx2 avx512f avx512_vnnix\n", False),
        ("Features\t: fp asimd\n", False),
        (None, False),
    ],
)
def test_exact_int8_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: bool) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(cpus, "CPUINFO", tmp_path / "cpuinfo")
    assert cpus.has_exact_int8_products() is expected


def test_this_machine_has_at_least_one_core() -> None:
    assert 1 <= cpus.usable_cpus() <= (os.cpu_count() or 1)
