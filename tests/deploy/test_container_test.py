"""The container test itself, as far as it goes without an engine: it lints first, and all there is."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("complains", ["hadolint", "docker-compose.gpu.yml"])
def test_files_are_linted_before_an_engine_is_looked_for(tmp_path: Path, complains: str) -> None:
    """On a machine without an engine it ends with 77, which CI lets pass: what is wrong in a file must be told before."""
    log = tmp_path / "log"
    for name in ("hadolint", "docker"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >>{log}\ncase "{name} $*" in *{complains}*) exit 1 ;; esac\n')
        program.chmod(0o755)
    done = subprocess.run(
        [ROOT / "deploy/container_test/run.sh"],
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, complains in done.stderr) == (1, True), done.stdout + done.stderr
    calls = log.read_text().splitlines()
    (linted,) = [call.split()[1:] for call in calls if call.startswith("hadolint ")]
    tracked = subprocess.run(
        ["git", "ls-files", "Dockerfile", "*/Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert {os.path.normpath(name) for name in linted} == set(tracked.stdout.split())
    assert [call for call in calls if call.startswith(("docker info", "docker buildx", "docker build"))] == []
