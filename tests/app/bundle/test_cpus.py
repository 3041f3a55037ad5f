"""How many cores a process may use, by its affinity and its control group's quota, and what they can."""

import os
from pathlib import Path

import pytest

from app.bundle import cpus


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("quota", "limit", "usable"), [(None, 8, 8), (3.0, 3, 3), (1.5, 1.5, 2), (0.25, 0.25, 1), (16.0, 8, 8)]
)
def test_the_smaller_of_affinity_and_quota_counts(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, limit: float, usable: int
) -> None:
    monkeypatch.setattr(cpus, "cpu_quota", lambda: quota)
    assert (cpus.cpu_limit(), cpus.usable_cpus()) == (limit, usable)


def test_without_affinity_all_cores_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(cpus, "cpu_quota", lambda: None)
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: avx512f avx512_bf16\n", True),
        ("flags\t\t: avx512f amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd i8mm bf16\n", True),
        ("flags\t\t: avx2 avx512f avx512_vnni\n", False),
        ("Features\t: fp asimd svebf16\n", False),
        (None, False),
    ],
)
def test_bf16_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: bool) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(cpus, "CPUINFO", tmp_path / "cpuinfo")
    assert cpus.has_bf16_products() is expected


def test_this_machine_has_at_least_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 1 <= cpus.usable_cpus() <= (os.cpu_count() or 1)
