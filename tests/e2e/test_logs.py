"""The log: a JSON object a line, and a line for each request."""

import fcntl
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from tests.support import BATCH_TOKENS, ROOT, STOP_WITHIN_S, ServerProcess, eventually, serving

TEXT = "The cat sat on the mat."


def test_each_request_is_a_line_of_the_log(shared_server: ServerProcess) -> None:
    shared_server.post("/v1/classify", {"model": "sentiment", "inputs": [TEXT, "Yes"]}, x_request_id="good-1")
    good = shared_server.told("good-1")
    assert (good["level"], good["logger"], good["message"]) == ("info", "app.access", "request")
    assert (good["task"], good["model"], good["status"]) == ("classify", "sentiment", 200)
    assert good["bundle"] == shared_server.ask("GET", "/v1/models/sentiment").json["hash"]
    assert "error_type" not in good
    assert good["sequences"] == 2
    assert good["tokens"] > 13
    assert 0 < good["duration_ms"] < 60_000
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", good["time"])
    shared_server.post("/v1/fill-mask", {"inputs": TEXT}, x_request_id="bad-1")
    bad = shared_server.told("bad-1")
    assert (bad["task"], bad["model"], bad["sequences"]) == ("fill-mask", "masked", 0)
    assert (bad["status"], bad["error_type"]) == (422, "validation")


def test_every_line_of_the_log_is_json(shared_server: ServerProcess) -> None:
    for record in shared_server.records:
        assert {"time", "level", "logger", "message"} <= set(record)


def test_the_time_to_be_ready_counts_from_the_start_of_the_process(shared_server: ServerProcess) -> None:
    """It includes the imports, so it is at least the time from the first line to that one, to a hundredth of a second."""
    first, *_ = records = shared_server.records
    [ready] = [one for one in records if one["message"].startswith("ready in ")]
    since_first_s = (datetime.fromisoformat(ready["time"]) - datetime.fromisoformat(first["time"])).total_seconds()
    assert float(ready["message"].split()[2]) > since_first_s - 0.01


def test_text_logs_are_readable_and_name_the_process_of_several(shared_models: Path) -> None:
    arguments = ("--threads", "1", "--workers", "2")
    with serving(shared_models / "sentiment", *arguments, BERT_LOG_FORMAT="text") as server:
        server.post("/v1/classify", {"inputs": TEXT}, x_request_id="seen-1")
        lines = eventually(lambda: [line for line in server.log.splitlines() if "request_id=seen-1" in line])
        assert " info " in lines[0]
        assert "status=200" in lines[0]
        assert re.search(r" request process=front-end-\d pid=\d+ request_id=seen-1 ", lines[0])
        assert re.search(r"model sentiment ready: .* process=engine pid=\d+$", server.log, re.MULTILINE)
        assert "pid=" not in server.log.splitlines()[0]  # of the process that was started, and that its operator knows


PIPE_BYTES = 4096
"""The smallest that there is: some 16 lines of the access log."""


@contextmanager
def logging_to_a_pipe(models: Path, workers: str) -> Iterator[tuple[ServerProcess, int]]:
    """Serve with a pipe as stderr, which is read until the server is ready and no further."""
    output, given = os.pipe()
    fcntl.fcntl(given, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    command = [sys.executable, "-m", "app", "--models", str(models), "--port", "0", "--workers", workers]
    environment = {**os.environ, "BERT_BATCH_TOKENS": BATCH_TOKENS, "BERT_THREADS": "1", "BERT_LOG_FORMAT": "json"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=given)
    os.close(given)
    try:
        told = b""
        while told.count(b'"ready in ') < int(workers):
            read = os.read(output, PIPE_BYTES)
            assert read, told
            told += read
        url = re.search(rb"listening on (http://[^ ]+)", told)
        assert url
        yield ServerProcess(process, url[1].decode(), Path(os.devnull)), output
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(output)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_log_that_nobody_reads_stops_nothing(shared_models: Path, workers: str) -> None:
    requests = 100
    with logging_to_a_pipe(shared_models / "sentiment", workers) as (server, _):
        for _ in range(requests):
            # On a connection of its own, so that it meets every front end.
            assert server.post("/v1/classify", {"inputs": TEXT}).status == 200
        for path in ("/livez", "/readyz", "/metrics") * 4:
            assert httpx.get(server.url + path, timeout=5).status_code == 200
        assert server.metric("bert_log_dropped_lines_total") == 0  # they wait
        assert server.stop() == 0


def test_what_waited_is_written_when_the_log_is_read_again(shared_models: Path) -> None:
    requests = 50
    with logging_to_a_pipe(shared_models / "sentiment", "1") as (server, output):
        for i in range(requests):
            assert server.post("/v1/classify", {"inputs": TEXT}, x_request_id=f"id-{i}").status == 200
        server.process.terminate()
        with os.fdopen(os.dup(output)) as log:
            records = [json.loads(line) for line in log]  # to the end of the process
        assert server.process.wait(STOP_WITHIN_S) == 0
    told = [record["request_id"] for record in records if record["message"] == "request"]
    assert told == [f"id-{i}" for i in range(requests)]
    assert records[-1]["message"] == "stopped"
