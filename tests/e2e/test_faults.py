"""A sequence that cannot be run, and a device that is lost."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from app.bundle.files import load_bundle
from app.text.tokenizer import Tokenizer
from tests.e2e.conftest import Device, ServeFaulty, Steady
from tests.support import HAPPEN_WITHIN_S, START_WITHIN_S, Reply, ServerProcess, eventually

GOOD, POISONED = "The cat sat on the mat.", "It is late."


@pytest.fixture
def poison(shared_models: Path) -> int:
    """The id of a token that only the poisoned text has."""
    good, poisoned = Tokenizer(load_bundle(shared_models / "sentiment")).encode([GOOD, POISONED])
    return int(next(token for token in poisoned.input_ids if token not in good.input_ids))


def ask(server: ServerProcess, *inputs: str) -> Reply:
    return server.post("/v1/classify", {"inputs": list(inputs)})


def test_a_poisoned_sequence_fails_alone(steady: Steady, poison: int) -> None:
    server, device = steady.server, steady.device
    expected = ask(server, GOOD).json
    with ThreadPoolExecutor(4) as threads:
        device.poison(poison)
        device.hold()
        first = threads.submit(ask, server, GOOD)
        eventually(lambda: server.metric("bert_inflight_requests") == 1)
        good = [threads.submit(ask, server, GOOD) for _ in range(2)]
        bad = threads.submit(ask, server, GOOD, POISONED)
        eventually(lambda: server.metric("bert_queue_sequences") == 4)  # one batch
        device.release()
        assert all(reply.result().json == expected for reply in (first, *good))
        failed = bad.result()
    assert failed.status == 500
    assert failed.json["error_type"] == "internal"
    assert "inputs[1]" in failed.error
    assert server.metric("bert_requests_total", status="500") == 1
    assert server.ask("GET", "/readyz").status == 200
    assert ask(server, GOOD).json == expected
    told = [record for record in steady.records if record["level"] == "error"]
    assert len(told) == 2  # the batch, then the sequence
    assert all("a fault that a test wanted" in record["exception"] for record in told)
    assert POISONED not in server.log


def test_a_lost_device_fails_all_requests_and_ends_the_process(serve_faulty: ServeFaulty, device: Device) -> None:
    with ThreadPoolExecutor(8) as threads, serve_faulty() as server:
        device.hold()
        waiting = [threads.submit(ask, server, GOOD, POISONED) for _ in range(8)]
        eventually(lambda: server.metric("bert_inflight_requests") == 8)
        device.lose()
        device.release()
        for reply in waiting:
            assert reply.result().status == 503
            assert reply.result().json["error_type"] == "engine_lost"
            assert int(reply.result().headers["retry-after"]) >= 1
        assert server.process.wait(HAPPEN_WITHIN_S) == 70
        levels = [(record["level"], record["message"]) for record in server.records]
    assert ("critical", "the device failed: a fault that a test wanted") in levels
    assert ("error", "the engine was lost: not ready") in levels


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_device_that_is_lost_while_models_load_ends_the_start(
    serve_faulty: ServeFaulty, device: Device, workers: str
) -> None:
    device.lose()
    with serve_faulty("--workers", workers, wait=False) as server:
        assert server.process.wait(START_WITHIN_S) == 70  # with two workers after six starts
        log = server.log
    assert "the device failed while the models were loading: a fault that a test wanted" in log
    assert "Traceback" not in log


def test_a_model_that_does_not_fit_ends_the_start_with_a_remedy(serve_faulty: ServeFaulty, device: Device) -> None:
    device.shrink(0)
    with serve_faulty(wait=False) as server:
        assert server.process.wait(HAPPEN_WITHIN_S) == 1
        [told] = [record["message"] for record in server.records if record["level"] == "critical"]
    assert told.startswith("cannot start: Model sentiment does not fit")
    assert "BERT_BATCH_TOKENS" in told


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_device_that_never_comes_back_is_lost(serve_faulty: ServeFaulty, device: Device, workers: str) -> None:
    patience = ("--request-timeout-s", "0.5", "--batch-tokens", "64")
    with serve_faulty("--workers", workers, *patience, STUCK_S="0.1") as server:
        device.hold()
        assert ask(server, GOOD).json["error_type"] == "deadline_exceeded"
        if workers == "1":
            assert server.process.wait(HAPPEN_WITHIN_S) == 70
        else:
            eventually(lambda: "engine ended with status 70; starting another" in server.log)
            device.release()
            eventually(lambda: ask(server, GOOD).status == 200)
        levels = [(record["level"], record["message"]) for record in server.records]
    assert ("critical", "the device is stuck: a batch that should have been back long ago still runs") in levels
    assert ("error", "the engine was lost: not ready") in levels
