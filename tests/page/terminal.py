"""A terminal's screen as a page, for pictures of what a command shows while it runs."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import Final, Literal

from tests.support import ROOT

ROWS: Final = 24
COLUMNS: Final = 92
_STYLE: Final = {
    "light": "background: #fbfbf9; color: #1b1c1e",
    "dark": "background: #15161a; color: #e9eaec",
}


def run_until(command: Sequence[str], folder: Path, pattern: str) -> list[str]:
    """Run a command in a terminal until a line matches, end it, and return what was on the screen then."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = ""
    try:
        while not re.search(pattern, shown):
            shown += os.read(master, 65536).decode(errors="replace")
    finally:
        process.kill()
        process.wait()
        os.close(master)
    *lines, last = shown.split("\r\n")
    # A bar is drawn over itself: the last whole one is what was there.
    bar = next(part for part in last.split("\r") if re.search(pattern, part))
    return [part for line in [*lines, bar] for part in (wrap(line, COLUMNS) or [""])]


def as_page(lines: Sequence[str], scheme: Literal["light", "dark"]) -> str:
    """Return HTML that shows lines as a terminal does."""
    text = "\n".join(map(escape, lines))
    style = f"{_STYLE[scheme]}; margin: 0; padding: 20px 24px; font: 14px/1.5 'DejaVu Sans Mono', monospace; width: max-content"
    return f'<!doctype html><body style="margin: 0"><pre style="{style}">{text}</pre>'
