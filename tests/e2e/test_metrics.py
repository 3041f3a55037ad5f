"""The metrics of the server: there from the start, and true."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from app.telemetry.metrics import REJECTIONS
from tests.e2e.wire import head, wire
from tests.support import ServerProcess, serving

TEXT = "The cat sat on the mat."
MODELS = {"sentiment": "classify", "toxicity": "classify", "masked": "fill-mask"}
BY_MODEL = {
    "request_duration_seconds": "histogram",
    "tokenize_duration_seconds": "histogram",
    "queue_duration_seconds": "histogram",
    "inference_duration_seconds": "histogram",
    "device_busy_seconds_total": "counter",
    "batch_sequences": "histogram",
    "batch_tokens": "histogram",
    "batch_fill_ratio": "histogram",
    "queue_sequences": "gauge",
    "queue_tokens": "gauge",
    "inflight_requests": "gauge",
    "cancelled_total": "counter",
    "truncated_total": "counter",
    "tokens_total": "counter",
}


@pytest.fixture(scope="module")
def at_start(shared_models: Path) -> str:
    """The metrics of a server that nobody has asked anything yet, and that has inherited another program's environment."""
    inherited = {"PROMETHEUS_MULTIPROC_DIR": "/nowhere"}
    with serving(shared_models, "--threads", "1", "--no-access-log", **inherited) as server:
        reply = server.ask("GET", "/metrics")
        assert reply.headers["content-type"].startswith("text/plain; version=")
        return reply.body.decode()


@pytest.mark.parametrize("name", BY_MODEL)
def test_every_series_of_every_model_is_there_from_the_start(at_start: str, name: str) -> None:
    assert f"# TYPE bert_{name} {BY_MODEL[name]}" in at_start
    assert f"# HELP bert_{name} " in at_start
    suffix = "_count" if BY_MODEL[name] == "histogram" else ""
    for model, task in MODELS.items():
        assert f'bert_{name}{suffix}{{model="{model}",task="{task}"}} 0.0' in at_start


def test_counts_by_status_and_reason_are_there_from_the_start(at_start: str) -> None:
    for model, task in MODELS.items():
        for status in ("200", "400", "401", "404", "405", "413", "415", "422", "429", "500", "503", "504"):
            assert (
                f'bert_requests_total{{api="native",model="{model}",status="{status}",task="{task}"}} 0.0' in at_start
            )
        for reason in REJECTIONS:
            assert f'bert_rejected_total{{model="{model}",reason="{reason}",task="{task}"}} 0.0' in at_start


def test_model_info_names_what_is_served(at_start: str) -> None:
    for model, task in MODELS.items():
        labels = f'model="{model}",provider="CPUExecutionProvider",task="{task}",variant="cpu-fp32",version=""'
        assert re.search(rf'^bert_model_info{{hash="[0-9a-f]{{12}}",{labels}}} 1\.0$', at_start, re.MULTILINE)
    assert "bert_engine_up 1.0" in at_start
    assert "bert_engine_restarts_total 0.0" in at_start
    assert "bert_front_end_restarts_total 0.0" in at_start
    assert "process_resident_memory_bytes" in at_start
    assert "_created" not in at_start


def test_metrics_follow_requests(shared_server: ServerProcess) -> None:
    names = ("requests_total", "request_duration_seconds_count", "tokenize_duration_seconds_count",
             "queue_duration_seconds_count", "tokens_total", "truncated_total", "batch_sequences_sum", "batch_tokens_sum",
             "inference_duration_seconds_count", "batch_fill_ratio_sum")  # fmt: skip

    def read() -> dict[str, float]:
        return {name: shared_server.metric(f"bert_{name}", model="sentiment") for name in names}

    before = read()
    reply = shared_server.post("/v1/classify", {"model": "sentiment", "inputs": [TEXT, TEXT, "good " * 100]})
    assert reply.json["usage"] == {"tokens": 2 * 13 + 40, "truncated": 1}
    after = {name: value - before[name] for name, value in read().items()}
    for name in (
        "requests_total",
        "request_duration_seconds_count",
        "tokenize_duration_seconds_count",
        "queue_duration_seconds_count",
    ):
        assert after[name] == 1, name
    assert after["tokens_total"] == after["batch_tokens_sum"] == 66
    assert after["batch_sequences_sum"] == 3
    assert after["truncated_total"] == 1
    assert 1 <= after["inference_duration_seconds_count"] <= 3
    assert 0 < after["batch_fill_ratio_sum"] <= 3


def test_latency_excludes_the_time_to_send_the_request(shared_server: ServerProcess) -> None:
    body = json.dumps({"model": "sentiment", "inputs": TEXT}).encode()
    before = shared_server.metric("bert_request_duration_seconds_sum", model="sentiment")
    with wire(shared_server.url) as line:
        line.send(head(f"Content-Length: {len(body)}", "Expect: 100-continue", "X-Request-Id: slow"))
        assert line.reply().status == 100  # it is in hand
        for _ in range(50):
            shared_server.ask("GET", "/livez")
        sent_at = time.monotonic()
        line.send(body)
        assert line.reply().status == 200
        within_s = time.monotonic() - sent_at
    assert 0 < shared_server.metric("bert_request_duration_seconds_sum", model="sentiment") - before < within_s
    told = shared_server.told("slow")
    assert 0 < told["duration_ms"] <= within_s * 1e3


@pytest.mark.parametrize(
    ("body", "status", "model"),
    [
        (b"nonsense", "400", "none"),
        ({"inputs": ""}, "422", "none"),
        ({"model": "nobody", "inputs": TEXT}, "404", "none"),
        ({"model": "sentiment", "inputs": "a " * 100, "parameters": {"truncation": False}}, "422", "sentiment"),
        (None, "405", "none"),
    ],
)
def test_refused_requests_are_counted(shared_server: ServerProcess, body: Any, status: str, model: str) -> None:
    before = shared_server.metric("bert_requests_total", model=model, status=status)
    assert shared_server.ask("GET" if body is None else "POST", "/v1/classify", body).status == int(status)
    assert shared_server.metric("bert_requests_total", model=model, status=status) == before + 1


def test_callers_cannot_create_series(shared_server: ServerProcess) -> None:
    def series() -> set[str]:
        lines = shared_server.ask("GET", "/metrics").body.decode().splitlines()
        return {line.rsplit(" ", 1)[0] for line in lines if line.startswith("bert_")}

    for model in ("nobody", 'x"} 1\nbert_fake{a="', "sentiment2"):
        shared_server.post("/v1/classify", {"model": model, "inputs": TEXT})
    before = series()
    for model in ("nobody else", "\n", "sentiment3", "masked"):
        shared_server.post("/v1/classify", {"model": model, "inputs": TEXT}, x_request_id=f"id-{len(model)}")
    assert series() == before
    assert not [one for one in before if "nobody" in one or "fake" in one]
