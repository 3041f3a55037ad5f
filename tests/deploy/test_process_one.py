"""What containers run as process 1, whose kernel keeps every signal from it that it has no handler for."""

import signal
import subprocess
import sys

import pytest

from tests.support import ROOT

TERMINATED = 128 + signal.SIGTERM

PROGRAM = """
import os, runpy, signal, sys

class Library:
    def find_spec(self, name, *_):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "app", "deploy", "model_export"}:
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Library())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
"""Runs a module, and sends SIGTERM when it imports its first library."""


@pytest.mark.parametrize(
    ("command", "status"),
    [("app", 0), ("app predict", TERMINATED), ("model_export", TERMINATED), ("deploy.fill_models", TERMINATED)],
)
def test_it_has_a_handler_before_it_imports_a_library(command: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
