"""What the metric objects tell of the events that they hear."""

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from app.messages import BatchRan, QueueStatistics
from app.metrics import REJECTIONS, STATUSES, Metrics, ServedModel

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics(CollectorRegistry())
    metrics.add_model("sentiment", "classify")
    return metrics


def samples(metrics: Metrics) -> Samples:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[f"bert_{name}", frozenset(({"model": "sentiment", "task": "classify"} | labels).items())]


def test_a_batch(metrics: Metrics) -> None:
    metrics.for_model("sentiment").ran(BatchRan(sequences=3, tokens=24, longest=10, started_at=0.0, duration_s=0.25))
    assert value(metrics, "batch_sequences_sum") == 3
    assert value(metrics, "batch_tokens_sum") == value(metrics, "tokens_total") == 24
    assert value(metrics, "batch_fill_ratio_sum") == pytest.approx(24 / 30)
    assert value(metrics, "inference_duration_seconds_sum") == 0.25
    assert value(metrics, "batch_sequences_bucket", le="2.0") == 0
    assert value(metrics, "batch_sequences_bucket", le="4.0") == 1


def test_a_request(metrics: Metrics) -> None:
    model = metrics.for_model("sentiment")
    model.inflight.inc()
    model.tokenized(2, 0.5)
    model.started(0.125)
    model.answered(200, 1.0)
    model.answered(418, 2.0)
    model.rejected("overloaded")
    model.cancelled()
    model.queued(QueueStatistics(5, 60, 0.25, 0.5, 0.1))
    expected = {
        "inflight_requests": 1, "tokenize_duration_seconds_sum": 0.5, "truncated_total": 2, "queue_duration_seconds_sum": 0.125,
        "request_duration_seconds_sum": 3, "cancelled_total": 1, "queue_sequences": 5, "queue_tokens": 60,
        "queue_wait_seconds": 0.75,
    }  # fmt: skip
    assert {name: value(metrics, name) for name in expected} == expected
    assert value(metrics, "requests_total", status="200") == value(metrics, "requests_total", status="418") == 1
    assert value(metrics, "rejected_total", reason="overloaded") == 1


def test_every_series_of_a_model_is_there_before_its_first_request(metrics: Metrics) -> None:
    def named(model: str) -> dict[str, int]:
        count: dict[str, int] = {}
        for name, labels in samples(metrics):
            if ("model", model) in labels:
                count[name] = count.get(name, 0) + 1
        return count

    assert named("sentiment")["bert_requests_total"] == len(STATUSES)
    assert named("sentiment")["bert_rejected_total"] == len(REJECTIONS)
    metrics.add_model("masked", "fill-mask")
    assert named("masked") == named("sentiment") == named("none")
    before = samples(metrics)
    metrics.add_model("masked", "fill-mask")
    assert samples(metrics).keys() == before.keys()


def test_requests_that_name_no_model_share_a_series(metrics: Metrics) -> None:
    for name in (None, "nobody", 'x"} 1'):
        metrics.for_model(name).answered(404, 0.0)
    assert value(metrics, "requests_total", model="none", task="none", status="404") == 3


def test_a_name_cannot_break_the_format(metrics: Metrics) -> None:
    name = 'a"b\\c\nd'
    metrics.add_model(name, "classify").answered(200, 0.0)
    assert value(metrics, "requests_total", model=name, status="200") == 1


def test_what_serves_a_model(metrics: Metrics) -> None:
    metrics.model_loaded(ServedModel("sentiment", "classify", "cpu-fp32", "CPUExecutionProvider"), 512, 1)
    assert value(metrics, "model_info", variant="cpu-fp32", provider="CPUExecutionProvider") == 1
    assert value(metrics, "batch_budget_tokens") == 512


def test_batches_that_ran_at_once_share_the_time_of_the_device(metrics: Metrics) -> None:
    model = metrics.add_model("sentiment", "classify")
    metrics.model_loaded(ServedModel("sentiment", "classify", "cpu-fp32", "CPUExecutionProvider"), 512, 4)
    for _ in range(4):
        model.ran(BatchRan(1, 8, 8, 0.0, 0.5))
    assert value(metrics, "inference_duration_seconds_sum") == 2.0
    assert value(metrics, "device_busy_seconds_total") == 0.5


def test_metrics_of_two_services_do_not_meet(metrics: Metrics) -> None:
    other = Metrics(CollectorRegistry())
    other.add_model("sentiment", "classify").answered(200, 0.0)
    assert value(metrics, "requests_total", status="200") == 0
    assert value(other, "requests_total", status="200") == 1


def test_the_process_is_told(metrics: Metrics) -> None:
    told = samples(metrics)
    assert told["process_resident_memory_bytes", frozenset()] > 1e6
    assert told["process_cpu_seconds_total", frozenset()] > 0
    assert not [name for name, _ in told if name.endswith("_created")]
