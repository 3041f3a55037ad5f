"""`python -m app predict`: the rows of files get what callers of the server get, once each, whatever happens meanwhile."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.bundle.files import load_bundle
from app.tasks.catalog import load_model
from tests.conftest import BundleOf
from tests.e2e.conftest import Device
from tests.support import END_WITHIN_S, ROOT, eventually

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Command:
    """The command in a folder, with the rows of `rows.*` as input."""

    folder: Path
    model: Path
    module: str = "app"

    def start(self, *arguments: str, stdin: Any = None) -> "subprocess.Popen[bytes]":
        clean = {key: value for key, value in os.environ.items() if not key.startswith("BERT_")}
        return subprocess.Popen(
            [sys.executable, "-m", self.module, "predict", "--model", str(self.model), *arguments],
            cwd=ROOT,
            env=clean
            | {
                "PYTHONWARNINGS": "error",
                "BERT_BATCH_TOKENS": "64",
                "BERT_THREADS": "1",
                "FAULTS": str(self.folder.parent / "faults"),
            },
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str, status: int = 0, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        process = self.start(*arguments, stdin=subprocess.PIPE)
        out, err = process.communicate(stdin, END_WITHIN_S)
        assert process.returncode == status, err.decode()
        return subprocess.CompletedProcess(process.args, status, out, err)

    def files(self) -> set[str]:
        return {path.name for path in self.folder.iterdir() if path.is_file()}

    def write(self, name: str, content: str) -> str:
        path = self.folder / name
        path.write_text(content)
        return str(path)

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def lines(self, name: str) -> list[Any]:
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]


@pytest.fixture
def command(tmp_path: Path, bundle_of: BundleOf) -> Command:
    folder = tmp_path / "work"
    folder.mkdir()
    return Command(folder, bundle_of("bert-single-label"))


@pytest.fixture
def faulty(command: Command, device: Device) -> Command:
    """The command on the test's device, which commits often."""
    return replace(command, module="tests.e2e.faulty")


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def rows_done(folder: Path) -> int:
    """Return how many rows of `out.csv` have been committed."""
    try:
        return int(json.loads((folder / "out.csv.progress").read_bytes())["position"]["rows"])
    except FileNotFoundError:
        return 0


def reviews(count: int) -> str:
    """Return a CSV whose rows differ in length."""
    table = io.StringIO()
    csv.writer(table).writerows([["id", "text"], *([i, f"word {i} " * (1 + i % 7)] for i in range(count))])
    return table.getvalue()


def test_a_row_that_the_device_fails_on_is_bad_alone(command: Command, faulty: Command, device: Device) -> None:
    bundle = load_bundle(command.model)
    golden = {token for case in bundle.golden.cases for token in case.input_ids}
    tokenizer = load_model(bundle).tokenizer
    # One that is not poison while the model is loaded.
    poison, word = next(
        (token, word)
        for token in range(tokenizer.largest_id)
        if token not in golden and (word := tokenizer.token(token) or "").isalpha()
    )
    device.poison(poison)
    source = command.write("in.txt", "good\n" * 20 + f"{word}\n" + "good\n" * 20)
    faulty.run("--input", source, "--output", command.path("out.jsonl"), status=3)
    assert len(command.lines("out.jsonl")) == 40
    [bad] = command.lines("out.bad.jsonl")
    assert (bad["row"], bad["content"]) == (21, {"text": word})


@contextmanager
def half_read(command: Command, *arguments: str) -> "Iterator[subprocess.Popen[bytes]]":
    """Start a run whose input, a pipe, stays open after some rows, which have been predicted; then the others come."""
    pipe = command.folder / "pipe"
    os.mkfifo(pipe)
    process = command.start("--input", str(pipe), "--input-format", "csv", *arguments)
    head, tail = reviews(3000)[:20_000], reviews(3000)[20_000:]
    with pipe.open("w") as stream:
        stream.write(head)
        stream.flush()
        eventually(lambda: size(command.folder / "out.jsonl.part") > 0)
        yield process
        with suppress(BrokenPipeError):
            stream.write(tail)
    pipe.unlink()


def test_a_lost_device_ends_the_run_and_the_same_command_goes_on(
    command: Command, faulty: Command, device: Device
) -> None:
    arguments = ("--output", command.path("out.jsonl"))
    with half_read(faulty, *arguments) as process:
        device.lose()
    _, err = process.communicate()
    assert (process.returncode, b"the device failed: " in err) == (70, True), err.decode()
    done = command.run("--input", command.write("in.csv", reviews(3000)), *arguments)
    assert b"going on after" in done.stderr
    assert [line["id"] for line in command.lines("out.jsonl")] == [str(i) for i in range(3000)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_says_how_to_go_on(command: Command, faulty: Command, number: int) -> None:
    arguments = ("--output", command.path("out.jsonl"))
    with half_read(faulty, *arguments) as process:
        process.send_signal(number)
        # Although its input goes on, and nothing comes.
        _, err = process.communicate(timeout=END_WITHIN_S)
    assert process.returncode == 128 + number, err.decode()
    assert re.search(rb"stopped after [1-9][\d,]* rows; the same command goes on from there", err)
    command.run("--input", command.write("in.csv", reviews(3000)), *arguments)
    assert [line["id"] for line in command.lines("out.jsonl")] == [str(i) for i in range(3000)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_what_waits_for_its_input(command: Command, number: int) -> None:
    os.mkfifo(command.path("rows.csv"))
    process = command.start("--input", command.path("rows.csv"), "--output", command.path("out.jsonl"))
    try:
        pipe = eventually(partial(_opened_too, command.path("rows.csv")))
        process.send_signal(number)
        assert process.communicate(timeout=END_WITHIN_S) == (b"", b"")
        assert pipe is not None
        os.close(pipe)
    finally:
        process.kill()
    assert process.returncode == 128 + number


def _opened_too(pipe: str) -> int | None:
    """Open the other end of a pipe, once one is open."""
    with suppress(OSError):
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    return None


def test_a_run_needs_no_stdin_stdout_and_stderr(command: Command) -> None:
    rows = command.write("rows.txt", "a\n")
    files = ["--model", str(command.model), "--input", rows, "--output", command.path("out.jsonl")]
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-m", "app", "predict", *files]
    assert subprocess.run(closed, cwd=ROOT, timeout=END_WITHIN_S, check=False).returncode == 0
    assert len(command.lines("out.jsonl")) == 1


def test_a_run_that_is_killed_again_and_again_loses_and_doubles_no_row(command: Command, faulty: Command) -> None:
    # Some rows are bad, so that both files are cut.
    source = command.write("in.csv", reviews(3000).replace("word 7 ", ""))
    common = ("--input", source)
    command.run(*common, "--output", command.path("whole.csv"), status=3)
    kills = 0
    while True:
        process, before = faulty.start(*common, "--output", command.path("out.csv")), rows_done(command.folder)
        eventually(lambda p=process, b=before: p.poll() is not None or rows_done(command.folder) > b + 500)  # type: ignore[misc]
        process.kill()
        _, err = process.communicate()
        if process.returncode == 3:
            break
        assert process.returncode == -signal.SIGKILL, err.decode()
        # What a kill may leave behind the last commit.
        with (command.folder / "out.csv.part").open("ab") as part:
            part.write(b'123,"half a ro')
        kills += 1
    assert kills >= 3
    assert b"going on after" in err
    for name in ("csv", "bad.jsonl"):
        assert (command.folder / f"out.{name}").read_bytes() == (command.folder / f"whole.{name}").read_bytes()
    assert command.files() == {"in.csv", "out.csv", "out.bad.jsonl", "whole.csv", "whole.bad.jsonl"}


def test_a_full_disk_ends_the_run_and_nothing_is_lost(command: Command) -> None:
    source = command.write("in.csv", reviews(3000))
    arguments = ("--input", source, "--output", command.path("out.jsonl"))
    limited = Command(command.folder, command.model, "tests.e2e.small_files")
    done = limited.run(*arguments, status=1)
    assert b"out.jsonl: File too large." in done.stderr
    command.run(*arguments)
    assert [line["id"] for line in command.lines("out.jsonl")] == [str(i) for i in range(3000)]


def test_memory_does_not_grow_with_the_input(command: Command) -> None:
    peaks = []
    for count in (4_000, 40_000):
        source = command.write(f"in{count}.csv", reviews(count))
        process = command.start("--input", source, "--output", command.path(f"out{count}.jsonl"))
        _, process.returncode, usage = os.wait4(process.pid, 0)
        process.communicate()
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss)
    # KiB: what malloc keeps varies by some 10 MB; the rows, their tokens and answers are 60 MB and more as Python has them.
    assert peaks[1] < peaks[0] + 30_000


def test_a_run_goes_on_only_with_what_it_was_begun_with(command: Command, faulty: Command, bundle_of: BundleOf) -> None:
    source = command.write("in.csv", reviews(4000))
    output = ("--output", command.path("out.jsonl"))
    process = faulty.start("--input", source, *output)
    eventually(lambda: size(command.folder / "out.jsonl.part") > 50_000 or process.poll() is not None)
    process.kill()
    process.communicate()
    left = command.files() - {"out.bad.jsonl.part"}  # which is empty
    kept = {name: (command.folder / name).read_bytes() for name in left}
    assert (
        b"another model"
        in Command(command.folder, bundle_of("distilbert-two-labels")).run("--input", source, *output, status=2).stderr
    )
    assert (
        b"another parameters"
        in command.run("--input", source, *output, "--parameters", '{"top_k": 1}', status=2).stderr
    )
    other = command.write("other.csv", reviews(4000).replace("word 3 ", "other "))
    assert b"was begun with another input" in command.run("--input", other, *output, status=2).stderr
    assert command.files() == left | {"other.csv"}
    # Named from another folder, it is the same: only its input is another.
    named = os.path.relpath(command.path("out.jsonl"), ROOT)
    assert b"was begun with another input" in command.run("--input", other, "--output", named, status=2).stderr
    # What was read of a stream to compare it is not lost silently.
    with Path(other).open("rb") as stream:
        again = command.start("--input", "-", "--input-format", "csv", *output, "--overwrite", stdin=stream)
        assert b"send the input once more" in again.communicate()[1]
    assert (again.returncode, command.files()) == (2, {"in.csv", "other.csv"})
    # That removed what was begun; a file is read again at once.
    for name in left - {"in.csv"}:
        (command.folder / name).write_bytes(kept[name])
    command.run("--input", other, *output, "--overwrite")
    assert len(command.lines("out.jsonl")) == 4000
    assert "other" in command.lines("out.jsonl")[3]["text"]


def test_two_runs_do_not_write_one_output(command: Command, faulty: Command, device: Device) -> None:
    source = command.write("in.csv", reviews(10))
    arguments = ("--input", source, "--output", command.path("out.jsonl"))
    device.hold()
    first = faulty.start(*arguments)
    eventually(lambda: device.is_held)
    assert b"Another run writes" in command.run(*arguments, status=2).stderr
    device.release()
    first.communicate()
    assert first.returncode == 0
    assert len(command.lines("out.jsonl")) == 10
