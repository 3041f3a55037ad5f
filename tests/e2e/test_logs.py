"""The log: a JSON object a line, a line for each request, and never a text."""

import re
from pathlib import Path
from typing import Any

from tests.support import ServerProcess, eventually, serving

TEXT = "The cat sat on the mat."


def test_each_request_is_a_line_of_the_log(shared_server: ServerProcess) -> None:
    def line(request_id: str) -> dict[str, Any]:
        def find() -> list[dict[str, Any]]:
            return [record for record in shared_server.records if record.get("request_id") == request_id]

        [record] = eventually(find)
        return record

    shared_server.post("/v1/classify", {"model": "sentiment", "inputs": [TEXT, "Yes"]}, x_request_id="good-1")
    good = line("good-1")
    assert (good["level"], good["logger"], good["message"]) == ("info", "app.access", "request")
    assert (good["task"], good["model"], good["status"]) == ("classify", "sentiment", 200)
    assert "error_type" not in good
    assert good["sequences"] == 2
    assert good["tokens"] > 13
    assert 0 < good["duration_ms"] < 60_000
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", good["time"])
    shared_server.post("/v1/fill-mask", {"inputs": TEXT}, x_request_id="bad-1")
    bad = line("bad-1")
    assert (bad["task"], bad["model"], bad["sequences"]) == ("fill-mask", "masked", 0)
    assert (bad["status"], bad["error_type"]) == (422, "validation")


def test_texts_are_not_logged(shared_server: ServerProcess) -> None:
    text = "Donaudampfschifffahrt"
    shared_server.post("/v1/classify", {"model": "sentiment", "inputs": text})
    shared_server.post("/v1/fill-mask", {"inputs": f"{text} [MASK]", "parameters": {"targets": ["good"]}})
    shared_server.post("/v1/classify", {"model": text, "inputs": text}, x_request_id="last-1")
    eventually(lambda: "last-1" in shared_server.log)
    assert text not in shared_server.log


def test_every_line_of_the_log_is_json(shared_server: ServerProcess) -> None:
    for record in shared_server.records:
        assert {"time", "level", "logger", "message"} <= set(record)


def test_text_logs_are_readable_and_name_the_process_of_several(shared_models: Path) -> None:
    arguments = ("--threads", "1", "--workers", "2")
    with serving(shared_models / "sentiment", *arguments, BERT_LOG_FORMAT="text") as server:
        server.post("/v1/classify", {"inputs": TEXT}, x_request_id="seen-1")
        lines = eventually(lambda: [line for line in server.log.splitlines() if "request_id=seen-1" in line])
        assert " info " in lines[0]
        assert "status=200" in lines[0]
        assert re.search(r" request process=front-end pid=\d+ request_id=seen-1 ", lines[0])
        assert re.search(r"model sentiment ready: .* process=engine pid=\d+$", server.log, re.MULTILINE)
        assert "pid=" not in server.log.splitlines()[0]  # of the process that was started, and that its operator knows
