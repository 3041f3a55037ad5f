"""Each event changes the metrics that it should."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families

from app.engine.messages import BatchRan, QueueStatistics
from app.telemetry.metrics import (
    LOAD_OUTCOMES,
    MOST_CALLERS,
    NOT_ROUTED_STATUSES,
    OTHER_CALLERS,
    STATUSES,
    Metrics,
    ServedModel,
)
from app.telemetry.record import CLIENT_GONE, RequestRecord

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics(CollectorRegistry())
    metrics.set_apis(["native", "tei"])
    metrics.add_model("sentiment", "classify")
    return metrics


def samples(metrics: Metrics) -> Samples:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    common = {"model": "sentiment", "task": "classify"}
    if name == "requests_total":
        common["api"] = "native"
    return samples(metrics)[f"bert_{name}", frozenset((common | labels).items())]


def over(status: int, duration_s: float = 0.0, **known: Any) -> RequestRecord:
    """A request that is over."""
    return RequestRecord("id", "native", "classify", status=status, duration_s=duration_s, **known)


def test_a_batch_is_counted(metrics: Metrics) -> None:
    metrics.for_model("sentiment").ran(BatchRan(sequences=3, tokens=24, longest=10, started_at=0.0, duration_s=0.25))
    assert value(metrics, "batch_sequences_sum") == 3
    assert value(metrics, "batch_tokens_sum") == value(metrics, "tokens_total") == 24
    assert value(metrics, "batch_fill_ratio_sum") == pytest.approx(24 / 30)
    assert value(metrics, "inference_duration_seconds_sum") == 0.25
    assert value(metrics, "batch_sequences_bucket", le="2.0") == 0
    assert value(metrics, "batch_sequences_bucket", le="4.0") == 1


def test_a_request_is_counted(metrics: Metrics) -> None:
    model = metrics.for_model("sentiment")
    model.inflight.inc()
    model.started([0.125])
    model.finished(over(200, 1.0, tokenizing_at=5.0, tokenized_at=5.5, truncated=2))
    model.finished(over(418, 2.0))
    model.finished(over(429, error_type="overloaded"))
    model.finished(over(CLIENT_GONE, 4.0, error_type="client_gone"))
    model.cancelled()
    model.queued(QueueStatistics(5, 60, 0.25, 0.5, 0.1))
    expected = {
        "inflight_requests": 1, "tokenize_duration_seconds_sum": 0.5, "truncated_total": 2, "queue_duration_seconds_sum": 0.125,
        "request_duration_seconds_sum": 3, "cancelled_total": 1, "queue_sequences": 5, "queue_tokens": 60,
        "queue_wait_seconds": 0.35,
    }  # fmt: skip
    assert {name: value(metrics, name) for name in expected} == expected
    for status in ("200", "418", "429"):
        assert value(metrics, "requests_total", status=status) == 1
    assert ("bert_requests_total", "499") not in {
        (name, dict(labels).get("status")) for name, labels in samples(metrics)
    }
    assert value(metrics, "rejected_total", reason="overloaded") == 1


def test_requests_that_start_together_are_counted_as_if_each_did_alone(metrics: Metrics) -> None:
    together, alone = metrics.for_model("sentiment"), metrics.add_model("other", "classify")
    queued_s = [0.0, 0.001, 0.0011, 0.3, 0.3, 60.0, 61.0]  # a bucket's bound belongs to it
    together.started(queued_s)
    for one in queued_s:
        alone.started([one])
        alone._queue_duration.observe(one)
    for name in [f"queue_duration_seconds_{part}" for part in ("sum", "count")]:
        assert 2 * value(metrics, name) == pytest.approx(value(metrics, name, model="other"))
    for le in ("0.001", "0.0025", "0.25", "0.5", "30.0", "60.0", "+Inf"):
        name = "queue_duration_seconds_bucket"
        assert 2 * value(metrics, name, le=le) == value(metrics, name, le=le, model="other")


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PROMETHEUS_ASKS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def test_a_sampled_request_is_the_exemplar_of_its_latency(metrics: Metrics) -> None:
    model = metrics.for_model("sentiment")
    model.finished(over(200, 0.3, trace_id=TRACE, is_sampled=True))
    model.finished(over(200, 0.02, trace_id=TRACE))  # not sampled
    page, content_type = metrics.expose(PROMETHEUS_ASKS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in openmetrics_families(page.decode())}  # type: ignore[no-untyped-call]
    examples = {
        (sample.name, sample.labels["model"], sample.labels["le"]): (sample.exemplar.labels, sample.exemplar.value)
        for family in families.values()
        for sample in family.samples
        if sample.exemplar
    }
    assert examples == {("bert_request_duration_seconds_bucket", "sentiment", "0.5"): ({"trace_id": TRACE}, 0.3)}


@pytest.mark.parametrize("accept", ["", "*/*", "text/html,application/xhtml+xml;q=0.9", "text/plain;version=0.0.4"])
def test_text_is_the_default_format(metrics: Metrics, accept: str) -> None:
    metrics.for_model("sentiment").finished(over(200, 0.3, trace_id=TRACE, is_sampled=True))
    page, content_type = metrics.expose(accept)
    assert content_type.startswith("text/plain; version=")
    assert TRACE not in page.decode()
    assert [line for line in page.splitlines() if not line.startswith(b"process_")] == [
        line for line in metrics.render().splitlines() if not line.startswith(b"process_")
    ]


def test_both_formats_have_the_same_values(metrics: Metrics) -> None:
    metrics.for_model("sentiment").finished(over(200, 0.3, trace_id=TRACE, is_sampled=True))
    page, _ = metrics.expose("application/openmetrics-text")
    told = {
        (sample.name, frozenset(sample.labels.items()))
        for family in openmetrics_families(page.decode())  # type: ignore[no-untyped-call]
        for sample in family.samples
    }
    assert told == samples(metrics).keys()


def test_every_series_of_a_model_is_there_before_its_first_request(metrics: Metrics) -> None:
    def named(model: str) -> dict[str, int]:
        count: dict[str, int] = {}
        for name, labels in samples(metrics):
            if ("model", model) in labels:
                count[name] = count.get(name, 0) + 1
        return count

    assert named("sentiment")["bert_requests_total"] == 2 * len(STATUSES)  # of two APIs
    assert STATUSES == (200, 400, 401, 404, 405, 408, 413, 415, 422, 429, 500, 503, 504)
    metrics.add_model("masked", "fill-mask")
    assert named("masked") == named("sentiment")
    beyond = {"bert_requests_total": named("masked")["bert_requests_total"] + len(NOT_ROUTED_STATUSES)}
    of_bundles = {"bert_model_load_failures": 1, "bert_model_loads_total": len(LOAD_OUTCOMES)}
    assert named("none") | of_bundles == named("masked") | beyond
    before = samples(metrics)
    metrics.add_model("masked", "fill-mask")
    assert samples(metrics).keys() == before.keys()


def test_requests_that_name_no_model_share_a_series(metrics: Metrics) -> None:
    for name in (None, "nobody", 'x"} 1'):
        metrics.for_model(name).finished(over(404))
    assert value(metrics, "requests_total", model="none", task="none", status="404") == 3


def test_a_name_cannot_break_the_format(metrics: Metrics) -> None:
    name = 'a"b\\c\nd'
    metrics.add_model(name, "classify").finished(over(200))
    assert value(metrics, "requests_total", model=name, status="200") == 1


HOW = {"variant": "cpu-fp32", "provider": "CPUExecutionProvider", "hash": "0a1b2c3d4e5f", "version": "7"}


def test_model_info_names_how_a_model_is_served_until_it_is_not(metrics: Metrics) -> None:
    model = ServedModel("sentiment", "classify", "cpu-fp32", "CPUExecutionProvider", "0a1b2c3d4e5f", "7")
    metrics.model_loaded(model, 512)
    assert value(metrics, "model_info", **HOW) == 1
    metrics.model_released(model)
    assert b"bert_model_info{" not in metrics.render()
    metrics.model_loaded(model, 512)
    assert value(metrics, "model_info", **HOW) == 1
    assert value(metrics, "batch_budget_tokens") == 512


def test_batches_that_ran_at_once_share_the_time_of_the_device(metrics: Metrics) -> None:
    model = metrics.add_model("sentiment", "classify")
    for _ in range(4):
        model.ran(BatchRan(1, 8, 8, 0.0, 0.5, share=0.25))
    assert value(metrics, "inference_duration_seconds_sum") == 2.0
    assert value(metrics, "device_busy_seconds_total") == 0.5


def test_metrics_of_two_services_do_not_meet(metrics: Metrics) -> None:
    other = Metrics(CollectorRegistry())
    other.add_model("sentiment", "classify").finished(over(200))
    assert value(metrics, "requests_total", status="200") == 0
    assert value(other, "requests_total", status="200") == 1


def test_process_metrics_are_there(metrics: Metrics) -> None:
    told = samples(metrics)
    assert told["process_resident_memory_bytes", frozenset()] > 1e6
    assert told["process_cpu_seconds_total", frozenset()] > 0
    assert not [name for name, _ in told if name.endswith("_created")]


def of_caller(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics).get((f"bert_caller_{name}", frozenset(labels.items())))


def test_requests_and_tokens_of_a_caller_are_counted(metrics: Metrics) -> None:
    metrics.of_callers.expect(["search"])
    for name in ("requests_total", "tokens_total", "throttled_total"):
        status = {"status": "200"} if name == "requests_total" else {}
        assert of_caller(metrics, name, caller="search", **status) == 0
    for record in (
        over(200, tokens=7),
        over(200, tokens=5),
        over(429, tokens=9, error_type="rate_limited"),
        over(429, tokens=9, error_type="overloaded"),
        over(CLIENT_GONE, tokens=9, error_type="client_gone"),
    ):
        metrics.of_callers.finished("search", record)
    assert of_caller(metrics, "requests_total", caller="search", status="200") == 2
    assert of_caller(metrics, "requests_total", caller="search", status="429") == 2
    assert of_caller(metrics, "requests_total", caller="search", status=str(CLIENT_GONE)) is None
    assert of_caller(metrics, "tokens_total", caller="search") == 12
    assert of_caller(metrics, "throttled_total", caller="search") == 1


def test_callers_beyond_a_hundred_share_their_series(metrics: Metrics) -> None:
    metrics.of_callers.expect(f"c{i}" for i in range(MOST_CALLERS + 20))
    for i in range(MOST_CALLERS + 20):
        metrics.of_callers.finished(f"c{i}", over(200, tokens=3))
    labels = {dict(labels)["caller"] for (name, labels) in samples(metrics) if name == "bert_caller_tokens_total"}
    assert len(labels) == MOST_CALLERS + 1
    assert of_caller(metrics, "tokens_total", caller="c0") == 3
    assert of_caller(metrics, "tokens_total", caller=OTHER_CALLERS) == 60
