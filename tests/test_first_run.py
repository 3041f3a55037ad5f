"""What a newcomer's machine lacks is told in one sentence, and what an earlier try left behind is in nobody's way."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile, with nothing to install."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "export.txt").touch()
    return tmp_path


def make_environment(checkout: Path, python: Path) -> "subprocess.CompletedProcess[str]":
    # Without the variables of the `make` that runs the tests.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS", "EXPORT"))}
    return subprocess.run(
        ["make", ".venv-export/installed", f"PYTHON={python}"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def stand_in(path: Path, version: str) -> Path:
    """A program that passes for a Python of a version, and makes environments of itself in no time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    passes = "true" if version >= "3.11" else "false"
    path.write_text(f"""#!/bin/sh
case "$*" in
    --version) echo Python {version} ;;
    "-m venv --clear "*) mkdir -p "$4/bin" && rm -f "$4/bin/python" && cp "$0" "$4/bin/python" ;;
    *) {passes} ;;
esac
""")
    path.chmod(0o755)
    return path


def test_make_names_the_python_that_it_needs(checkout: Path) -> None:
    done = make_environment(checkout, stand_in(checkout / "python3", "3.10.13"))
    assert done.returncode == 2
    assert "needs Python 3.11 or newer" in done.stderr
    assert "Python 3.10.13" in done.stderr
    assert "make .venv-export/installed PYTHON=python3.13" in done.stderr
    assert not (checkout / ".venv-export").exists()


def test_make_replaces_the_environment_of_an_older_or_a_removed_python(checkout: Path) -> None:
    new = stand_in(checkout / "python3", "3.11.7")
    used = stand_in(checkout / ".venv-export" / "bin" / "python", "3.10.13")
    done = make_environment(checkout, new)
    assert done.returncode == 0, done.stderr
    assert "Installing requirements/export.txt into .venv-export" in done.stdout
    assert used.read_text() == new.read_text()
    assert "up to date" in make_environment(checkout, new).stdout
    used.unlink()
    used.symlink_to(checkout / "removed")
    assert make_environment(checkout, new).returncode == 0
    assert used.read_text() == new.read_text()


@pytest.mark.parametrize(("program", "requirements"), [("app", "cpu.txt"), ("model_export", "export.txt")])
def test_a_python_without_the_packages_is_named(program: str, requirements: str) -> None:
    bare = [sys.executable, "-S", "-m", program]
    done = subprocess.run(bare, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: {sys.executable} has no package ")
    assert ".venv-export/bin/python" in line
    assert f"requirements/{requirements}" in line
