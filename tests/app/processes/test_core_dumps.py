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


@pytest.mark.parametrize(
    ("pattern", "most", "says"),
    [
        ("|/usr/share/apport/apport %p", 0, "set the hard limit"),
        ("|/usr/share/apport/apport %p", 1, None),
        ("@/run/cores.socket", 0, "refuse those"),
        ("@/run/cores.socket", 1, "refuse those"),
        ("core.%p", 0, None),
        (None, 0, None),
    ],
)
def test_a_host_that_gets_cores_nevertheless_is_warned_of(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    pattern: str | None,
    most: int,
    says: str | None,
) -> None:
    def set_limit(_: int, both: tuple[int, int]) -> None:
        if both > (most, most):
            raise ValueError("not allowed to raise maximum limit")

    if pattern is not None:
        (tmp_path / "core_pattern").write_text(pattern)
    monkeypatch.setattr(core_dumps, "_PATTERN", tmp_path / "core_pattern")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (0, most))
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    leave_no_core()
    assert [says in record.getMessage() for record in caplog.records if says] == [True] * bool(says)
    assert len(caplog.records) == bool(says)
