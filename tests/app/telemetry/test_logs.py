"""Logs as lines, for machines and for people."""

import errno
import io
import json
import logging
import sys
from typing import Any

import pytest

from app.telemetry import logs
from app.telemetry.logs import AccessLog, JsonFormatter, TextFormatter, configure, fields
from app.telemetry.record import RequestRecord


def record(message: str = "hello %s", *arguments: Any, error: bool = False, **extra: Any) -> logging.LogRecord:
    info = None
    if error:
        try:
            int("broken")
        except ValueError:
            info = sys.exc_info()
    made = logging.LogRecord("app.test", logging.WARNING, "file.py", 1, message, arguments or ("you",), info)
    made.__dict__.update(extra, created=1_700_000_000.25, msecs=250.0)
    return made


def test_json_has_time_level_and_message() -> None:
    assert json.loads(JsonFormatter().format(record(request_id="a-1", status=200, model=None))) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "app.test",
        "message": "hello you",
        "request_id": "a-1",
        "status": 200,
        "model": None,
    }


def test_a_process_that_another_has_started_names_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "own_process", lambda: {"process": "engine", "pid": 7})
    AccessLog("json").write(SUCCESS)
    for line in (JsonFormatter().format(record()), capsys.readouterr().err):
        told = json.loads(line)
        assert (told["process"], told["pid"]) == ("engine", 7)


@pytest.mark.parametrize("text", ["two\nlines", '"quoted"', "\ud800", "café ☕", "\x00\x1b[31m"])
def test_a_record_is_one_line_whatever_it_holds(text: str) -> None:
    line = JsonFormatter().format(record("%s", text, path=object(), name_of=text))
    assert "\n" not in line
    assert line.isascii()
    assert json.loads(line)["message"] == text


def test_a_traceback_is_a_field() -> None:
    told = json.loads(JsonFormatter().format(record(error=True)))
    assert told["exception"].splitlines()[0] == "Traceback (most recent call last):"
    assert told["exception"].endswith("'broken'")


def test_text_has_time_level_and_message() -> None:
    assert TextFormatter().format(record(status=200)) == "2023-11-14T22:13:20.250Z warning  hello you status=200"
    assert TextFormatter().format(record(error=True)).endswith("'broken'")
    shown = TextFormatter().format(record(client_certificate='bob status=200 "x"'))
    assert shown.endswith(r'hello you client_certificate="bob status=200 \"x\""')


SUCCESS = RequestRecord(
    "a-1", "native", "classify", client="::1", model="名前", sequences=2, tokens=20, duration_s=0.00125
)
FAILURE = RequestRecord("a-2", "openai", "embed", trace_id="4bf9", status=422, error_type="validation")
FIELDS: dict[str, dict[str, Any]] = {
    "a-1": {"request_id": "a-1", "client": "::1", "api": "native", "task": "classify", "model": "名前", "status": 200, "duration_ms": 1.25, "sequences": 2, "tokens": 20},
    "a-2": {"request_id": "a-2", "client": None, "api": "openai", "task": "embed", "model": None, "status": 422, "error_type": "validation",
            "duration_ms": 0.0, "sequences": 0, "tokens": 0, "trace_id": "4bf9"},
}  # fmt: skip


@pytest.mark.parametrize("request_", [SUCCESS, FAILURE], ids=["success", "failure"])
@pytest.mark.parametrize("style", ["json", "text"])
def test_the_line_of_a_request_is_like_all_others(
    style: Any, request_: RequestRecord, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = FIELDS[request_.request_id]
    AccessLog(style).write(request_)
    [line] = capsys.readouterr().err.splitlines()
    formatter = JsonFormatter() if style == "json" else TextFormatter()
    made = logging.LogRecord("app.access", logging.INFO, "file.py", 1, "request", (), None)
    made.__dict__.update(shown)
    expected = formatter.format(made)
    if style == "json":
        told = json.loads(line)
        assert list(told.items()) == list((json.loads(expected) | {"time": told["time"]}).items())
        assert line.isascii()
    else:
        assert line.split(" ", 1)[1] == expected.split(" ", 1)[1]


def test_a_log_that_cannot_be_written_fails_no_request(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    AccessLog("json").write(SUCCESS)


def test_only_what_was_passed_is_a_field() -> None:
    assert fields(record(status=200, color_message="red", taskName="Task-1")) == {"status": 200}


@pytest.mark.usefixtures("logging_as_before")
@pytest.mark.parametrize(
    ("style", "is_terminal", "first"),
    [("auto", False, "{"), ("auto", True, "2"), ("json", True, "{"), ("text", False, "2")],
)
def test_a_terminal_gets_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], style: Any, is_terminal: bool, first: str
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    configure("info", style)
    logging.getLogger("app.test").info("hello")
    assert capsys.readouterr().err.startswith(first)


@pytest.mark.usefixtures("logging_as_before")
def test_the_level_filters_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    configure("warning", "text")
    logging.getLogger("app.test").info("quiet")
    logging.getLogger("app.test").warning("loud")
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("loud")
    configure("info", "text")
    logging.getLogger("uvicorn.error").info("Uvicorn running")
    assert not capsys.readouterr().err
