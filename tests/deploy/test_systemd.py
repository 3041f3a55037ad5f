"""The unit of systemd: it is valid, and fits the server."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.settings import Settings
from tests.support import ROOT

UNIT = ROOT / "deploy" / "systemd" / "bert-inference-service.service"


def options() -> dict[str, str]:
    lines = (line for line in UNIT.read_text().splitlines() if "=" in line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # It must find the program, which is not installed here.
    unit.write_text(
        UNIT.read_text().replace(
            "ExecStart=/opt/bert-inference-service/.venv/bin/python", f"ExecStart={sys.executable}"
        )
    )
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_waits_for_what_the_server_tells_it() -> None:
    unit = options()
    assert unit["Type"] == "notify"
    assert unit["TimeoutStartSec"] == "infinity"
    assert int(unit["TimeoutStopSec"]) > Settings.model_fields["shutdown_timeout_s"].default + 5
    assert unit["Environment"].split("=")[0] == "BERT_MODELS"


def test_a_reload_begins_before_the_server_is_told_of_it() -> None:
    lines = [line for line in UNIT.read_text().splitlines() if line.startswith(("ExecReload=", "NotifyAccess="))]
    assert lines == [
        "NotifyAccess=exec",
        "ExecReload=/usr/bin/systemd-notify RELOADING=1",
        "ExecReload=/bin/kill -HUP $MAINPID",
    ]
