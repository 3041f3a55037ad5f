"""Traces, as a collector receives them from the real server: one process, and two front ends with an engine."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from app import __version__
from tests.conftest import BundleOf
from tests.e2e.collector import Collector
from tests.e2e.processes import until
from tests.support import ROOT, ServerProcess, run_app, serving

SECRET = "xylophone"
TEXTS = ["a", "the cat sat on the mat", "Hello, world!", "one two three four five six seven eight nine ten"]
LATER_MS = "60000"
"""After which spans are sent: none is before the end of the server."""
SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NOT_SAMPLED = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
EACH = pytest.mark.parametrize("workers", ["1", "2"])


def values(attributes: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@dataclass
class Trace:
    """The spans of one trace: the server's, and its children by start."""

    server: Span
    children: list[Span]

    def named(self, name: str) -> list[Span]:
        return [span for span in self.children if span.name == name]


class TraceCollector(Collector):
    """Keeps traces."""

    @property
    def requests(self) -> list[ExportTraceServiceRequest]:
        assert {one.path for one in list(self.received)} <= {"/v1/traces"}
        return [ExportTraceServiceRequest.FromString(one.body) for one in list(self.received)]

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    def trace(self, trace_id: str) -> Trace | None:
        spans = [span for span in self.spans if span.trace_id.hex() == trace_id]
        servers = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
        if not servers:
            return None  # it is sent last
        [server] = servers
        children = [span for span in spans if span is not server]
        assert {span.parent_span_id for span in children} <= {server.span_id}
        assert {span.kind for span in children} <= {Span.SPAN_KIND_INTERNAL}
        return Trace(server, sorted(children, key=lambda span: span.start_time_unix_nano))

    def traced(self, response: httpx.Response) -> Trace:
        """The trace of an answered request, as soon as it is here."""
        found = until(lambda: self.trace(trace_id_of(response)))
        assert isinstance(found, Trace)
        return found


def trace_id_of(response: httpx.Response) -> str:
    version, trace_id, _, _ = response.headers["traceresponse"].split("-")
    assert version == "00"
    return str(trace_id)


@pytest.fixture(scope="module")
def models(bundle_of: BundleOf) -> Path:
    return bundle_of("bert-single-label")


@pytest.fixture(scope="module")
def collector() -> Iterator[TraceCollector]:
    collector = TraceCollector()
    yield collector
    collector.close()


@contextmanager
def traced(
    models: Path, url: str, *arguments: str, workers: str = "1", delay_ms: str = "50"
) -> Iterator[ServerProcess]:
    """Serve with a collector, and wait for every front end: each answers 503 until it knows the engine."""
    options = {"BERT_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": delay_ms}
    with serving(models, "--workers", workers, "--threads", "1", *arguments, **options) as server:
        until(lambda: server.log.count("ready in ") == int(workers))
        yield server


@pytest.fixture(scope="module", params=["1", "2"], ids=["alone", "workers"])
def server(request: pytest.FixtureRequest, models: Path, collector: TraceCollector) -> Iterator[ServerProcess]:
    """For tests that leave it well. A batch holds 32 tokens."""
    options = ["--batch-tokens", "32", "--forwarded-allow-ips", "127.0.0.1"]
    with traced(models, collector.url, *options, workers=request.param) as server:
        yield server
        assert server.stop() == 0


def classify(server: ServerProcess, inputs: Any, **headers: str) -> httpx.Response:
    body = {"model": "bert-single-label", "inputs": inputs}
    return httpx.post(f"{server.url}/v1/classify", json=body, headers=headers, timeout=60)


def test_a_request_is_a_span_with_its_parts(server: ServerProcess, collector: TraceCollector) -> None:
    response = classify(server, [SECRET, "two words"], **{"x-forwarded-for": "203.0.113.9"})
    trace = collector.traced(response)
    assert trace.server.name == "POST /v1/classify"
    assert trace.server.parent_span_id == b""
    assert trace.server.status.code == Status.STATUS_CODE_UNSET
    assert values(trace.server.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/classify",
        "http.response.status_code": 200,
        "url.path": "/v1/classify",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "client.address": "203.0.113.9",
        "bert.request_id": response.headers["x-request-id"],
        "bert.model": "bert-single-label",
        "bert.bundle": server.ask("GET", "/v1/models/bert-single-label").json["hash"],
        "bert.api": "native",
        "bert.task": "classify",
        "bert.sequences": 2,
        "bert.tokens": response.json()["usage"]["tokens"],
    }
    assert [span.name for span in trace.children] == ["tokenize", "queue", "run"]
    tokenize, queue, run = trace.children
    size = {"sequences": 2, "tokens": response.json()["usage"]["tokens"]}
    assert values(tokenize.attributes) == {f"bert.{key}": value for key, value in size.items()}
    assert values(queue.attributes) == {}
    batch = values(run.attributes)
    assert 0 < batch.pop("bert.batch.longest_tokens") < size["tokens"]
    assert batch == {f"bert.batch.{key}": value for key, value in size.items()}


def test_spans_of_a_request_follow_each_other(server: ServerProcess, collector: TraceCollector) -> None:
    before_ns = time.time_ns()
    trace = collector.traced(classify(server, TEXTS[3]))
    tokenize, queue, run = trace.children
    stamps = [
        before_ns,
        trace.server.start_time_unix_nano,
        *(
            time_ns
            for span in (tokenize, queue, run)
            for time_ns in (span.start_time_unix_nano, span.end_time_unix_nano)
        ),
        trace.server.end_time_unix_nano,
        time.time_ns(),
    ]
    assert stamps == sorted(stamps)
    assert run.start_time_unix_nano < run.end_time_unix_nano


def test_each_batch_of_a_request_is_a_run(server: ServerProcess, collector: TraceCollector) -> None:
    response = classify(server, TEXTS * 8)
    trace = collector.traced(response)
    runs = [values(span.attributes) for span in trace.named("run")]
    assert len(runs) > 4
    assert sum(run["bert.batch.sequences"] for run in runs) == 32
    assert sum(run["bert.batch.tokens"] for run in runs) == response.json()["usage"]["tokens"]
    assert all(run["bert.batch.tokens"] <= 32 for run in runs)
    assert len(trace.named("tokenize")) == len(trace.named("queue")) == 1


def test_a_trace_continues_its_callers(server: ServerProcess, collector: TraceCollector) -> None:
    response = classify(server, "a", traceparent=SAMPLED, tracestate="vendor=value")
    _, trace_id, parent_id, _ = SAMPLED.split("-")
    assert trace_id_of(response) == trace_id
    servers = until(
        lambda: [
            span
            for span in collector.spans
            if span.trace_id.hex() == trace_id and response.headers["traceresponse"].split("-")[2] == span.span_id.hex()
        ]
    )
    assert [span.parent_span_id.hex() for span in servers] == [parent_id]
    assert servers[0].trace_state == "vendor=value"


@pytest.mark.parametrize("state", [SECRET, f"{SECRET}=a,{SECRET}=b", ",".join(f"{SECRET}{i}=b" for i in range(40))])
def test_an_invalid_state_is_dropped_and_not_in_the_log(
    server: ServerProcess, collector: TraceCollector, state: str
) -> None:
    trace = collector.traced(
        classify(server, "a", traceparent=f"00-{uuid4().hex}-00f067aa0ba902b7-01", tracestate=state)
    )
    assert (trace.server.parent_span_id.hex(), trace.server.trace_state) == ("00f067aa0ba902b7", "")
    assert SECRET not in server.log
    assert "key/value" not in server.log


@pytest.mark.parametrize("header", ["", "nonsense", SAMPLED.replace("00-4", "ff-4"), f"{SAMPLED}-more", "00-é-1-01"])
def test_an_invalid_context_begins_a_new_trace(server: ServerProcess, collector: TraceCollector, header: str) -> None:
    response = httpx.post(
        f"{server.url}/v1/classify",
        json={"model": "bert-single-label", "inputs": "a"},
        headers=[(b"traceparent", header.encode("latin-1"))],
    )
    assert response.status_code == 200
    assert collector.traced(response).server.parent_span_id == b""


def test_the_access_log_names_the_trace(server: ServerProcess) -> None:
    response = classify(server, "a")
    assert server.told(response.headers["x-request-id"])["trace_id"] == trace_id_of(response)


def exemplars(server: ServerProcess) -> set[str]:
    """The traces that the latencies of a server name."""
    reply = server.ask("GET", "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    text = reply.body.decode()
    assert text.endswith("# EOF\n")
    lines = [line for line in text.splitlines() if " # {" in line]
    assert [line for line in lines if not line.startswith("bert_request_duration_seconds_bucket{")] == []
    return set(re.findall(r' # \{trace_id="([0-9a-f]{32})"\} ', text))


def test_a_sampled_trace_is_the_exemplar_of_a_latency(models: Path, collector: TraceCollector) -> None:
    with traced(models, collector.url) as server:
        classify(server, "a", traceparent=NOT_SAMPLED)
        assert exemplars(server) == set()
        answered = trace_id_of(classify(server, "a"))
        assert exemplars(server) == {answered}
        assert answered not in server.ask("GET", "/metrics").body.decode()


def test_several_processes_keep_no_exemplars(models: Path, collector: TraceCollector) -> None:
    """The files in which they count have no place for them: documented, and no error."""
    with traced(models, collector.url, workers="2") as server:
        assert classify(server, "a").status_code == 200
        assert exemplars(server) == set()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {"model": "no such", "inputs": SECRET}),
        (422, {"model": "bert-single-label", "inputs": [SECRET], SECRET: 1}),
    ],
)
def test_a_callers_mistake_is_no_error_of_the_span(
    server: ServerProcess, collector: TraceCollector, status: int, body: dict[str, Any]
) -> None:
    response = httpx.post(f"{server.url}/v1/classify?{SECRET}", json=body, headers={"User-Agent": SECRET})
    assert response.status_code == status
    trace = collector.traced(response)
    assert trace.server.status.code == Status.STATUS_CODE_UNSET
    attributes = values(trace.server.attributes)
    assert attributes["http.response.status_code"] == status
    assert not {"error.type", "bert.model"} & attributes.keys()
    assert trace.children == []


def test_a_span_names_the_caller_and_holds_no_key(models: Path, collector: TraceCollector, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("search sk-of-search\n")
    with traced(models, collector.url, "--api-keys-file", str(keys)) as server:
        trace = collector.traced(classify(server, "a", authorization="Bearer sk-of-search"))
        assert values(trace.server.attributes)["enduser.id"] == "search"
        assert "enduser.id" not in values(collector.traced(classify(server, "a")).server.attributes)
    assert b"sk-of-search" not in b"".join(one.body for one in collector.received)


def test_spans_name_the_service_and_the_process(server: ServerProcess, collector: TraceCollector) -> None:
    collector.traced(classify(server, "a"))
    resources = [values(one.resource.attributes) for request in collector.requests for one in request.resource_spans]
    assert {one["service.name"] for one in resources} == {"bert-inference-service"}
    assert {one["service.version"] for one in resources} == {__version__}


def test_requests_of_one_batch_have_the_same_run(models: Path, collector: TraceCollector) -> None:
    with traced(models, collector.url, "--batch-tokens", "512", workers="2") as server:
        engine = engine_of(server)
        os.kill(engine, signal.SIGSTOP)
        with ThreadPoolExecutor(8) as threads:
            waiting = [threads.submit(classify, server, "word " * (i + 1)) for i in range(8)]
            until(lambda: inflight(server) == 8)
            os.kill(engine, signal.SIGCONT)
            responses = [one.result() for one in waiting]
        traces = [collector.traced(response) for response in responses]
    batches = Counter(tuple(sorted(values(run.attributes).items())) for trace in traces for run in trace.named("run"))
    assert batches.total() == 8
    # Each request has one sequence: as many requests tell of a batch as it had sequences, or a multiple for equal ones.
    assert [batch for batch, told in batches.items() if told % dict(batch)["bert.batch.sequences"]] == []
    assert max(dict(batch)["bert.batch.sequences"] for batch in batches) > 1


def test_an_engine_that_dies_is_an_error(models: Path, collector: TraceCollector) -> None:
    with traced(models, collector.url, workers="2") as server:
        engine = engine_of(server)
        os.kill(engine, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(classify, server, "a")
            until(lambda: inflight(server) == 1)
            os.kill(engine, signal.SIGKILL)
            response = waiting.result()
        assert response.status_code == 503
        trace = collector.traced(response)
    assert trace.server.status.code == Status.STATUS_CODE_ERROR
    assert values(trace.server.attributes)["error.type"] == "engine_lost"
    assert [span.name for span in trace.children] == ["tokenize"]


@EACH
def test_finished_spans_are_sent_before_the_server_ends(models: Path, collector: TraceCollector, workers: str) -> None:
    sent = len(collector.received)
    with traced(models, collector.url, workers=workers, delay_ms=LATER_MS) as server:
        not_sampled = classify(server, "a", traceparent=NOT_SAMPLED)
        responses = [classify(server, "a") for _ in range(10)]
        assert len(collector.received) == sent
        assert server.stop() == 0
    arrived = {span.trace_id.hex() for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER}
    assert {trace_id_of(response) for response in responses} <= arrived
    assert trace_id_of(not_sampled) == NOT_SAMPLED.split("-")[1]
    assert not_sampled.headers["traceresponse"].endswith("-00")
    assert trace_id_of(not_sampled) not in {span.trace_id.hex() for span in collector.spans}


@EACH
def test_standard_variables_name_the_collector_and_the_sampler(
    models: Path, collector: TraceCollector, workers: str
) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_TRACES_SAMPLER": "parentbased_always_off",
                 "OTEL_SERVICE_NAME": "moods", "OTEL_BSP_SCHEDULE_DELAY": "50",
                 # They name what is not installed, and what FastAPI alone would use.
                 "OTEL_PROPAGATORS": "b3", "OTEL_PYTHON_TRACER_PROVIDER": "none"}  # fmt: skip
    with serving(models, "--workers", workers, "--threads", "1", "--no-access-log", **variables) as server:
        trace_id = uuid4().hex
        not_sampled = classify(server, "a")
        sampled = classify(server, "a", traceparent=f"00-{trace_id}-00f067aa0ba902b7-01")
        span = collector.traced(sampled).server
        assert span.trace_id.hex() == trace_id
        assert values(span.attributes)["client.address"] == "127.0.0.1"
        assert server.stop() == 0
    assert collector.trace(trace_id_of(not_sampled)) is None
    assert values(collector.requests[-1].resource_spans[0].resource.attributes)["service.name"] == "moods"


@pytest.mark.parametrize("is_there", [False, True], ids=["refuses", "hangs"])
def test_a_collector_that_is_down_harms_nothing(models: Path, is_there: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if not is_there:
            listener.close()
        with traced(models, url) as server:
            assert {classify(server, text).status_code for text in TEXTS * 10} == {200}
            assert server.stop() == 0
            assert "the last traces are lost" in server.log
            assert "Traceback" not in server.log


@EACH
def test_a_start_without_the_sdk_names_what_to_install(models: Path, tmp_path: Path, workers: str) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['opentelemetry.sdk'] = None\n")
    environment = {"BERT_OTLP_ENDPOINT": "http://127.0.0.1:4318", "PYTHONPATH": str(tmp_path)}
    done = run_app("--models", str(models), "--port", "0", "--workers", workers, **environment)
    assert done.returncode == 1
    assert done.stderr.count("Install the extra otel") == 1


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "4318"])
def test_an_invalid_endpoint_stops_the_start(models: Path, endpoint: str) -> None:
    done = run_app("--models", str(models), BERT_OTLP_ENDPOINT=endpoint)
    assert done.returncode == 2
    assert "BERT_OTLP_ENDPOINT" in done.stderr


@pytest.mark.parametrize("name", ["OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"])
def test_variables_that_the_sdk_refuses_end_the_start(models: Path, name: str) -> None:
    done = run_app("--models", str(models), "--port", "0", OTEL_TRACES_EXPORTER="otlp", **{name: "-1"})
    assert done.returncode == 1
    assert "OpenTelemetry cannot use its variables" in done.stderr


def test_without_an_endpoint_opentelemetry_is_not_imported(models: Path) -> None:
    script = "import sys, app.processes.launch; print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with serving(models, "--threads", "1") as server:
        response = classify(server, "a", traceparent=SAMPLED)
        assert response.status_code == 200
        assert "traceresponse" not in response.headers
        assert exemplars(server) == set()


def inflight(server: ServerProcess) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("bert_inflight_requests{"))


def engine_of(server: ServerProcess) -> int:
    """The first process that the supervisor started but for multiprocessing's own."""
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return min(int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text())
