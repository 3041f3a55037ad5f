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


ZEN_4 = (
    "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu vme sse4_2 avx f16c fma avx2 bmi2 avx512f avx512dq rdseed adx avx512ifma "
    "avx512cd avx512bw avx512vl avx512_bf16 avx512vbmi avx512_vbmi2 gfni avx512_vnni avx512_bitalg fsrm\nbugs\t\t: sysret_ss_attrs\n"
)
SAPPHIRE_RAPIDS = (
    "vendor_id\t: GenuineIntel\nflags\t\t: fpu sse4_2 avx fma avx2 avx512f avx512dq avx512cd avx512bw avx512vl avx_vnni "
    "avx512_bf16 avx512_vnni amx_bf16 avx512_fp16 amx_tile amx_int8 flush_l1d\nvmx flags\t: vnmi preemption_timer\n"
)
HASWELL = (
    "vendor_id\t: GenuineIntel\nflags\t\t: fpu vme sse4_2 movbe avx f16c rdrand abm fsgsbase bmi1 avx2 smep bmi2 erms\n"
)
ALDER_LAKE = "flags\t\t: fpu sse4_2 avx f16c fma avx2 smep bmi2 sha_ni avx_vnni gfni\n"
GRAVITON_3 = (
    "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm "
    "jscvt fcma lrcpc dcpop sha3 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm paca pacg dcpodp svei8mm svebf16 i8mm bf16 dgh rng\n"
    "CPU implementer\t: 0x41\n"
)
GRAVITON_1 = "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid\n"


@pytest.mark.parametrize(
    ("text", "expected", "adds_exactly"),
    [
        (ZEN_4, ("AVX2", "AVX-512", "VNNI", "AVX-512 BF16"), True),
        (SAPPHIRE_RAPIDS, ("AVX2", "AVX-512", "VNNI", "AVX-512 BF16", "AMX"), True),
        (HASWELL, ("AVX2",), False),
        (ALDER_LAKE, ("AVX2", "VNNI"), True),
        (GRAVITON_3, ("NEON", "DOTPROD", "I8MM", "BF16", "SVE"), True),
        (GRAVITON_1, ("NEON",), False),
        ("flags\t\t: avx2 avx512f avx512_vnnix\n", ("AVX2",), False),
        ("processor\t: 0\n", (), False),
        (None, (), False),
    ],
)
def test_instruction_sets_are_what_the_kernel_offers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: tuple[str, ...], adds_exactly: bool
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(cpus, "CPUINFO", tmp_path / "cpuinfo")
    assert cpus.instruction_sets() == expected
    assert cpus.has_exact_int8_products() is adds_exactly


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: avx512f avx512_bf16\n", True),
        ("flags\t\t: avx512f amx_bf16 amx_tile amx_int8\n", True),
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
