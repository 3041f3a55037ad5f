"""A process that crashes leaves no core."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from app.processes import core_dumps
from app.processes.core_dumps import leave_no_core
from tests.support import ROOT

CRASH = "import resource, os; {}; os.chdir({!r}); os.abort()"
WITH_A_CORE = "resource.setrlimit(resource.RLIMIT_CORE, [resource.getrlimit(resource.RLIMIT_CORE)[1]] * 2)"
WITHOUT = f"{WITH_A_CORE}; from app.processes.core_dumps import leave_no_core; leave_no_core()"


def leaves_a_core(before: str, folder: Path) -> bool:
    """Whether a process that crashes after this does."""
    process = subprocess.Popen([sys.executable, "-c", CRASH.format(before, str(folder))], cwd=ROOT)
    _, status = os.waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert os.WIFSIGNALED(status)
    return os.WCOREDUMP(status) or any(folder.iterdir())


def test_a_crash_leaves_no_core(tmp_path: Path) -> None:
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    assert not leaves_a_core(WITHOUT, tmp_path / "without")
    if not leaves_a_core(WITH_A_CORE, tmp_path / "with"):
        pytest.skip("this machine never leaves one")


@pytest.mark.parametrize("most", [1, 4096, resource.RLIM_INFINITY])
def test_the_hard_limit_stays_so_that_prlimit_can_ask_for_a_core(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    limits = [(0, most)]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    leave_no_core()
    assert limits[-1] == (1, most)


@pytest.mark.parametrize(("pattern", "warnings"), [("|/usr/share/apport/apport %p", 1), ("core.%p", 0), (None, 0)])
def test_a_hard_limit_of_0_is_warned_of_where_a_program_takes_cores(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, pattern: str | None, warnings: int
) -> None:
    def not_allowed(_: int, both: tuple[int, int]) -> None:
        assert both == (1, 1)
        raise ValueError("not allowed to raise maximum limit")

    if pattern is not None:
        (tmp_path / "core_pattern").write_text(pattern)
    monkeypatch.setattr(core_dumps, "_PATTERN", tmp_path / "core_pattern")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, 0))
    monkeypatch.setattr(resource, "setrlimit", not_allowed)
    leave_no_core()
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warnings
