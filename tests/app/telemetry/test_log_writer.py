"""Whoever writes to the log goes on, whatever becomes of the log."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.telemetry.log_writer import CAPACITY_BYTES, LogWriter, _never_wait
from tests.support import eventually

LINE = b"x" * 99 + b"\n"
FITTING = CAPACITY_BYTES // len(LINE)


class Pipe:
    """A pipe, and a writer to it."""

    def __init__(self) -> None:
        self.output, self.input = os.pipe()
        self.writer = LogWriter(self.input)
        self.dropped: list[int] = []
        self.writer.count_dropped(self.dropped.append)

    def read(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            content += os.read(self.output, size - len(content))
        return content

    def fill(self) -> int:
        """Write until nothing more fits, and return how many bytes those are."""
        os.set_blocking(self.input, False)
        return os.write(self.input, b"." * CAPACITY_BYTES)

    def replace(self) -> None:
        """Write to a new pipe from now on."""
        self.output, replaced = os.pipe()
        os.dup2(replaced, self.input)
        os.close(replaced)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.writer.drain(5.0)
    os.close(pipe.output)


def test_lines_that_nobody_reads_are_dropped_and_counted(pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    before = pipe.fill()
    lines = [b"%0*d\n" % (len(LINE) - 1, i) for i in range(FITTING + 1000)]
    for line in lines:
        pipe.writer.write(line)
    eventually(lambda: sum(pipe.dropped) == 1000)
    pipe.writer.drain(0.0)  # does not wait for a reader
    assert pipe.read(before + FITTING * len(LINE))[before:] == b"".join(lines[:FITTING])
    eventually(lambda: caplog.messages)
    assert caplog.messages == ["1000 lines of the log were dropped: what it is written to was full, slow or gone"]
    pipe.writer.write(b"again\n")
    assert pipe.read(6) == b"again\n"


def test_a_full_disk_drops_lines_until_there_is_room(pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, pipe.input)
    os.close(full)
    for _ in range(3):
        pipe.writer.write(LINE)
    eventually(lambda: sum(pipe.dropped) == 3)
    os.close(pipe.output)
    pipe.replace()
    pipe.writer.write(LINE)
    assert pipe.read(len(LINE)) == LINE
    eventually(lambda: caplog.messages)
    assert caplog.messages[0].startswith("3 lines of the log were dropped")


def test_a_reader_that_is_gone_costs_its_lines_and_the_next_one_gets_whole_ones(pipe: Pipe) -> None:
    pipe.writer.write(b"y" * 200_000 + b"\n")  # more than a pipe holds
    assert os.read(pipe.output, 10) == b"y" * 10
    os.close(pipe.output)
    eventually(lambda: sum(pipe.dropped) == 1)
    pipe.replace()
    pipe.writer.write(LINE)
    assert pipe.read(len(LINE) + 1) == b"\n" + LINE


def test_what_is_printed_past_the_log_does_not_wait_either() -> None:
    output, shared = os.pipe()
    own = os.dup(shared)
    _never_wait(own)
    assert os.write(own, b"x" * 1_000_000) < 1_000_000
    with pytest.raises(BlockingIOError):
        os.write(own, b"x")
    assert os.get_blocking(shared)  # other programs that have the pipe find it as it was
    for descriptor in (output, shared, own):
        os.close(descriptor)


def test_a_process_without_stderr_logs_nowhere() -> None:
    program = (
        "import os, sys; from app.telemetry.log_writer import drain, write_in_background; write_in_background();"
        "sys.stderr.write('lost\\n'); drain(); print(os.readlink('/proc/self/fd/2'))"
    )
    ran = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, program],
        capture_output=True, text=True, check=True, timeout=30, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert ran.stdout == "/dev/null\n"
