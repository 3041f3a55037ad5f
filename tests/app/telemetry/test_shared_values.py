"""What several processes count is one, and outlives each of them."""

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.engine.messages import QueueStatistics
from app.telemetry.metrics import Metrics, ServedModel
from app.telemetry.record import RequestRecord
from app.telemetry.shared_values import SharedMemory, SlotMemory

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
Slots = tuple[SlotMemory, SlotMemory]

SERVED = ServedModel("sentiment", "classify", "cpu-fp32", "CPUExecutionProvider", "0a1b2c3d4e5f", "7")


@pytest.fixture
def slots() -> Slots:
    return SlotMemory(), SlotMemory()


def process(slot: SlotMemory, slots: Slots) -> Metrics:
    """The metrics of a process that is new in a slot."""
    return counting(Metrics(memory=SharedMemory(slot, slots)))


def counting(metrics: Metrics) -> Metrics:
    metrics.set_apis(["native"])
    metrics.model_loaded(SERVED, 512)
    return metrics


def answer(metrics: Metrics, duration_s: float) -> None:
    metrics.for_model("sentiment").finished(
        RequestRecord("id", "native", "classify", model="sentiment", duration_s=duration_s)
    )


def samples(metrics: Metrics) -> Samples:
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in families
        for one in family.samples
        if not one.name.startswith("process_")
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    [found] = [
        value
        for (one, its), value in samples(metrics).items()
        if one == f"bert_{name}" and its >= set(labels.items()) and ("model", "none") not in its
    ]
    return found


def test_one_of_several_exposes_the_same_as_one_alone(slots: Slots) -> None:
    alone = counting(Metrics())
    several = process(slots[0], slots)
    for metrics in (alone, several):
        for duration_s in (0.001, 0.03, 0.04, 99.0):
            answer(metrics, duration_s)
    assert samples(several) == samples(alone)


def test_each_exposes_the_sum_of_all(slots: Slots) -> None:
    first, second = process(slots[0], slots), process(slots[1], slots)
    answer(first, 0.02)
    answer(second, 0.2)
    first.engine_up.set(1)
    second.engine_up.set(0)
    first.for_model("sentiment").queued(QueueStatistics(5, 60, 0.25, 0.5, 0.1))
    second.for_model("sentiment").queued(QueueStatistics(2, 20, 0.25, 0.5, 0.1))
    for metrics in (first, second):
        assert value(metrics, "requests_total", status="200") == 2
        assert value(metrics, "request_duration_seconds_sum") == pytest.approx(0.22)
        assert value(metrics, "request_duration_seconds_bucket", le="0.025") == 1
        assert value(metrics, "request_duration_seconds_bucket", le="0.25") == 2
        assert value(metrics, "request_duration_seconds_count") == 2
        assert value(metrics, "queue_tokens") == 80
        assert value(metrics, "model_info") == 1
        assert value(metrics, "engine_up") == 0


def test_a_process_that_ends_leaves_its_counts_and_takes_its_gauges(slots: Slots) -> None:
    staying, ending = process(slots[0], slots), process(slots[1], slots)
    staying.engine_up.set(1)
    answer(ending, 0.02)
    ending.for_model("sentiment").inflight.inc()
    slots[1].forget_gauges()
    assert value(staying, "engine_up") == 1
    assert value(staying, "inflight_requests") == 0
    assert value(staying, "requests_total", status="200") == 1
    successor = process(slots[1], slots)
    answer(successor, 0.02)
    successor.for_model("sentiment").inflight.inc()
    assert value(staying, "requests_total", status="200") == 2
    assert value(staying, "inflight_requests") == 1


def test_a_model_that_is_released_is_told_of_no_longer(slots: Slots) -> None:
    engine, front_end = process(slots[0], slots), process(slots[1], slots)
    for metrics in (engine, front_end):
        metrics.model_released(SERVED)
    assert b"bert_model_info{" not in engine.render()
    engine.model_loaded(SERVED, 512)
    assert value(front_end, "model_info") == 1


def test_the_memory_grows_with_the_models_and_not_with_the_processes(slots: Slots) -> None:
    def add_models() -> Metrics:
        metrics = process(slots[0], slots)
        for i in range(50):
            answer(metrics, 0.02)
            metrics.add_model(f"model-{i}", "classify")
        return metrics

    def size() -> int:
        return Path(slots[0].totals.path).stat().st_size + Path(slots[0].gauges.path).stat().st_size

    first = samples(add_models()).keys()
    size_of_one = size()
    assert samples(add_models()).keys() == first
    assert size() == size_of_one
