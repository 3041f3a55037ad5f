"""Sentences with human ratings, split as for the demo checkpoint; their package is downloaded once and not installed."""

import subprocess
import sys
from pathlib import Path
from typing import Final

from training.demo.rated import Sentence
from training.demo.rated import split as split_package

__all__ = ["Sentence", "split"]

PACKAGE: Final = Path(__file__).parent / "requirements-labelled.txt"


def split(cache: Path) -> tuple[list[Sentence], list[Sentence]]:
    """Return what a checkpoint may be trained on, and what it is evaluated on."""
    folder = cache / "labelled"
    if not (packages := list(folder.glob("*.tar.gz"))):
        options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-binary", ":all:", "--require-hashes")
        command = [sys.executable, "-m", "pip", "download", *options, "-r", str(PACKAGE), "-d", str(folder)]
        subprocess.run(command, check=True)
        packages = list(folder.glob("*.tar.gz"))
    return split_package(packages[0])
