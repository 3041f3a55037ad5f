"""How many cores a process may use, by its affinity and its control group's quota, and what they can."""

import os
import platform
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


AMD = (
    "processor\t: {number}\nvendor_id\t: AuthenticAMD\nmodel name\t: EPYC\nstepping\t: 1\ncpu MHz\t\t: {mhz}\n"
    "core id\t\t: {number}\nflags\t\t: {flags}\nbogomips\t: {mhz}\n\n"
)
ARM = "processor\t: {number}\nBogoMIPS\t: {mhz}\nFeatures\t: {flags}\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n\n"


@pytest.mark.parametrize("core", [AMD, ARM])
def test_processors_of_a_kind_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, core: str) -> None:
    monkeypatch.setattr(cpus, "CPUINFO", tmp_path / "cpuinfo")

    def processor(*cores: str) -> str:
        (tmp_path / "cpuinfo").write_text("".join(cores))
        return cpus.processor()

    one = processor(core.format(number=0, mhz=2400, flags="fp avx2"), core.format(number=1, mhz=2400, flags="fp avx2"))
    assert one == processor(core.format(number=0, mhz=3100.5, flags="fp avx2"))
    assert one != processor(core.format(number=0, mhz=2400, flags="fp avx2 avx512f"))
    assert one != processor(
        core.format(number=0, mhz=2400, flags="fp avx2").replace("EPYC", "Ryzen").replace("0xd40", "0xd4f")
    )


def test_a_processor_that_cannot_be_read_is_its_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "CPUINFO", tmp_path / "none")
    assert cpus.processor() == f"{platform.machine()} {platform.system()}\n"


def test_this_machine_has_at_least_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert 1 <= cpus.usable_cpus() <= (os.cpu_count() or 1)
