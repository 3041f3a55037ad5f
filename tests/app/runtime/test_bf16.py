"""Products in bf16: on ARM an option of ONNX Runtime, elsewhere OpenVINO, and what is said where neither can be had."""

import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bundle import cpus
from app.bundle.files import load_bundle
from app.engine.golden import replay_golden
from app.errors import BundleError, StartupError
from app.runtime.choice import open_runner
from app.runtime.execution import HostExecution
from app.runtime.options import BF16_ON_ARM
from app.runtime.runner import OrtRunner
from tests.app.runtime.machines import with_variants

Machine = Callable[[str, str], None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """Return a function that says which machine this is, and what its cores have as Linux tells it."""

    def be(name: str, flags: str) -> None:
        (tmp_path / "cpuinfo").write_text(flags)
        monkeypatch.setattr(platform, "machine", lambda: name)
        monkeypatch.setattr(cpus, "CPUINFO", tmp_path / "cpuinfo")

    return be


def options_of(runner: OrtRunner) -> Any:
    """Return the options that the session itself has."""
    assert isinstance(runner._execution, HostExecution)
    return runner._execution._sessions[1].get_session_options()


def test_on_arm_the_option_reaches_the_session(folder: Path, machine: Machine) -> None:
    machine("aarch64", "Features\t: fp asimd bf16\n")
    bundle = load_bundle(folder)
    runner, exact = (open_runner(bundle, device="cpu", precision=one, threads=[1]) for one in ("bf16", "fp32"))
    replay_golden(bundle, runner.variant_name, runner.run)
    assert (runner.variant_name, runner.provider) == ("cpu-bf16", "CPUExecutionProvider")
    assert options_of(runner).get_session_config_entry(BF16_ON_ARM) == "1"
    with pytest.raises(RuntimeError, match=BF16_ON_ARM):
        options_of(exact).get_session_config_entry(BF16_ON_ARM)


@pytest.mark.parametrize(
    ("name", "flags"), [("x86_64", "flags\t: avx2 avx512f avx512_vnni\n"), ("aarch64", "Features\t: fp asimd\n")]
)
def test_a_processor_without_bf16_is_named_as_the_cause(folder: Path, machine: Machine, name: str, flags: str) -> None:
    machine(name, flags)
    with pytest.raises(StartupError, match=r"this processor does not multiply bf16.*Set it to auto, fp32 or int8"):
        open_runner(load_bundle(folder), device="auto", precision="bf16", threads=[1])


def test_missing_openvino_is_named_as_the_cause(
    folder: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("x86_64", "flags\t: avx512_bf16\n")
    monkeypatch.delitem(sys.modules, "app.runtime.openvino", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(StartupError, match=r"runs in OpenVINO on x86, and that cannot be imported.*the extra openvino"):
        open_runner(load_bundle(folder), device="auto", precision="bf16", threads=[1])


def test_a_bundle_without_the_fp32_graph_has_no_bf16(folder: Path) -> None:
    bundle = with_variants(folder, ("cpu", "int8"))
    with pytest.raises(
        BundleError, match=r"no variant cpu-bf16; it has cpu-int8\. It runs the graph of cpu-fp32: export"
    ):
        open_runner(bundle, device="cpu", precision="bf16", threads=[1])
