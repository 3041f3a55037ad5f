"""Python's garbage collector rarely runs in a process of the server, and does not look at what was imported."""

import subprocess
import sys

import pytest

from app.processes.garbage_collection import THRESHOLD

STARTED = """
import gc, sys

class Finder:
    def find_spec(name, path, target):
        if name == "pydantic":
            print(gc.get_threshold()[0])

sys.meta_path.insert(0, Finder)
import app.__main__
"""
CHILD = """
import gc
from app.processes.exit_status import ExitStatus, run_child
from app.settings import Settings

async def main(settings):
    imported = len(gc.get_objects())
    print(gc.get_threshold()[0] if imported < gc.get_freeze_count() else "not frozen", flush=True)
    return ExitStatus.STOPPED

run_child(main, Settings())
"""


@pytest.mark.parametrize("script", [STARTED, CHILD], ids=["started", "child"])
def test_it_rarely_runs_from_the_beginning(script: str) -> None:
    """Before the first package of the process that is started, and as soon as a child does what it is for."""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == f"{THRESHOLD}\n"
