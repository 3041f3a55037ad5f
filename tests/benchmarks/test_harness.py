"""How parts are run: each in a process of its own that may fail, hang or die, and what is kept of it."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks import harness
from benchmarks.bench import Bench
from benchmarks.harness import Command, Form, Part, run
from benchmarks.machine import NotRun
from benchmarks.report import Row
from tests.support import ROOT, eventually, is_ended_by


def measured(bench: Bench, *, value: float) -> Iterator[Row]:
    """Measure a value."""
    for _ in range(bench.rounds):
        yield {"name": "a", "value": value, "passed": value > 0}


def failing(_: Bench) -> Iterator[Row]:
    """Fail after a row."""
    yield {"value": 1.0}
    raise ValueError("no more")


def dying(_: Bench) -> Iterator[Row]:
    """End the process after a row."""
    yield {"value": 1.0}
    os._exit(7)


def hanging(_: Bench) -> Iterator[Row]:
    """Never end."""
    yield {"value": 1.0}
    threading.Event().wait()


def deaf(_: Bench) -> Iterator[Row]:
    """Never end, whatever comes, as in a call that does not return."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield {"value": 1.0}
    threading.Event().wait()


def impossible(_: Bench) -> Iterator[Row]:
    """Need what is not there."""
    raise NotRun("needs another machine")
    yield {}


FORM = Form(
    {
        "good": Part(partial(measured, value=1.0), ()),
        "wrong": Part(partial(measured, value=-1.0), ()),
        "failing": Part(partial(failing), ()),
        "dying": Part(partial(dying), ()),
        "hanging": Part(partial(hanging), ()),
        "deaf": Part(partial(deaf), ()),
        "impossible": Part(partial(impossible), ()),
        "unexported": Part(partial(measured, value=1.0), ("demo",)),
    },
    part_within_s=60,
    rounds=2,
)
COMMAND = Command("try", "Try it.", {"short": FORM, "full": Form(FORM.parts, 60, devices=("cuda",))})


@pytest.fixture(autouse=True)
def process_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`run` changes the process that it is the command of."""
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def run_parts(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    status = run(COMMAND, ["--results", str(folder), "--cache", str(folder / "cache"), *arguments])
    [path] = folder.glob("try-*.json")
    return status, json.loads(path.read_text())["parts"]


def test_rows_and_circumstances_replace_the_earlier_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, parts = run_parts(tmp_path, "--parts", "unexported", "--export-python", "/bin/false")
    [path] = tmp_path.glob("try-*.json")
    path.write_text(json.dumps({"parts": parts | {"good": {"rows": [], "failed": "then"}}}))

    status, found = run_parts(tmp_path, "--parts", "good,impossible", "--rounds", "3")
    assert status == 0  # what cannot be measured here is no failure
    assert found["impossible"]["not_run"] == "needs another machine"
    assert found["unexported"] == parts["unexported"]
    good = found["good"]
    assert good["rows"] == [{"name": "a", "value": 1.0, "passed": True}] * 3
    assert (good["form"], good["rounds"], good["about"]) == ("short", 3, "Measure a value.")
    assert "failed" not in good
    assert good["date"].startswith("20")
    assert good["seconds"] > 0
    assert good["machine"]["versions"]["onnxruntime"]

    report = path.with_suffix(".md")
    written = report.read_text()
    assert "| a | 1 | yes |" in written
    assert written in capsys.readouterr().out
    report.unlink()
    assert run(COMMAND, ["--report", "--results", str(tmp_path)]) == 0
    assert report.read_text() == written
    of_all = (tmp_path / "results.md").read_text()
    assert f"[{report.name}]({report.name})" in of_all
    assert "| a | 1 | yes |" in of_all


def test_a_new_processor_adds_a_file(tmp_path: Path) -> None:
    other = {"device": {"name": "Another CPU", "cores": 3, "instruction_sets": ["AVX2"]}, "parts": {}}
    path = tmp_path / "try-another-cpu-3-cores-avx2.json"
    path.write_text(json.dumps(other))
    assert run(COMMAND, ["--results", str(tmp_path), "--cache", str(tmp_path / "cache"), "--parts", "good"]) == 0
    assert json.loads(path.read_text()) == other
    [new] = set(tmp_path.glob("try-*.json")) - {path}
    device = json.loads(new.read_text())["device"]
    assert (
        device["instruction_sets"] == []
        or re.sub("[^a-z0-9]+", "-", device["instruction_sets"][-1].lower()) in new.name
    )
    assert f"{device['cores']}-cores" in new.name


def test_parts_that_fail_keep_their_rows_and_say_why(tmp_path: Path) -> None:
    status, parts = run_parts(tmp_path, "--parts", "failing,dying,unexported", "--export-python", "/bin/false")
    assert status == 1
    assert parts["failing"]["failed"] == "ValueError: no more"
    assert parts["dying"]["failed"] == "the process ended with status 7"
    assert parts["unexported"]["failed"].startswith("ExportFailed: /bin/false -m benchmarks.checkpoints")
    assert [len(part["rows"]) for part in parts.values()] == [1, 1, 0]


def test_a_part_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    status, parts = run_parts(tmp_path, "--parts", "hanging", "--part-within-s", "0.5")
    assert status == 1
    assert parts["hanging"]["failed"] == "it was not done after 0.5 s"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_is_stopped_keeps_its_rows_and_says_so(tmp_path: Path, number: signal.Signals) -> None:
    code = "import sys; from tests.benchmarks.test_harness import COMMAND, run; sys.exit(run(COMMAND))"
    command = (sys.executable, "-c", code, "--results", str(tmp_path), "--cache", str(tmp_path / "cache"))
    with subprocess.Popen([*command, "--parts", "hanging,good"], cwd=ROOT, start_new_session=True) as process:
        [path] = eventually(lambda: list(tmp_path.glob("try-*.json")))
        [hanging] = json.loads(path.read_text())["parts"].values()
        assert hanging["failed"] == "it was not finished", "which stays if the command is killed"
        os.killpg(process.pid, number)  # as a terminal does it, and `timeout` and a service manager
        assert process.wait(20) == 128 + number
    parts = json.loads(path.read_text())["parts"]
    assert list(parts) == ["hanging"]
    assert parts["hanging"]["rows"] == [{"value": 1.0}]
    assert parts["hanging"]["failed"] == f"stopped by {number.name}"
    assert f"stopped by {number.name}" in path.with_suffix(".md").read_text()


def test_a_part_that_does_not_heed_the_stop_is_killed_whatever_signals_follow(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.benchmarks.test_harness import *; harness.STOP_WITHIN_S = 0.5; sys.exit(run(COMMAND))"
    )
    command = (sys.executable, "-c", code, "--results", str(tmp_path), "--cache", str(tmp_path / "cache"))
    with subprocess.Popen([*command, "--parts", "deaf"], cwd=ROOT) as process:
        [path] = eventually(lambda: list(tmp_path.glob("try-*.json")))
        eventually(lambda: is_ended_by(signal.SIGTERM, process))
        assert process.returncode == 128 + signal.SIGTERM
    [deaf] = json.loads(path.read_text())["parts"].values()
    assert deaf["failed"] == "stopped by SIGTERM"


def test_what_is_stopped_before_its_first_row_leaves_the_earlier_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, before = run_parts(tmp_path, "--parts", "good")
    monkeypatch.setattr(harness, "describe_machine", lambda: signal.raise_signal(signal.SIGTERM))
    status, parts = run_parts(tmp_path, "--parts", "good")
    assert status == 128 + signal.SIGTERM
    assert parts == before


def test_a_wrong_answer_fails_the_command(tmp_path: Path) -> None:
    status, parts = run_parts(tmp_path, "--parts", "wrong")
    assert status == 1
    assert "failed" not in parts["wrong"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--parts", "good,speed"], "no such part: speed; there are good, wrong"),
        (["--form", "full"], "--device cpu goes with --form short"),
    ],
)
def test_a_wrong_command_line_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(COMMAND, ["--results", str(tmp_path), *arguments])
    assert error in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_a_gpu_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-none")
    assert run(COMMAND, ["--results", str(tmp_path), "--device", "cuda"]) == 1
    assert "Nothing can be measured on cuda" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
