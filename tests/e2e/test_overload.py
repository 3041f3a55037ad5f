"""More than the device can do: what waits, what is refused, what is dropped, and that it passes."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.e2e.conftest import Device, ServeFaulty, Steady
from tests.e2e.wire import message, wire
from tests.support import Reply, ServerProcess, eventually

TEXT = "The cat sat on the mat."
BULK = 512


def ask(server: ServerProcess, inputs: Any = TEXT) -> Reply:
    return server.post("/v1/classify", {"inputs": inputs})


def test_a_full_queue_refuses_at_once_with_retry_after(serve_faulty: ServeFaulty, device: Device) -> None:
    with ThreadPoolExecutor(1) as threads, serve_faulty("--max-queue-s", "0.0001", "--batch-tokens", "64") as server:
        device.hold()
        bulk = threads.submit(ask, server, [TEXT] * BULK)
        eventually(lambda: server.metric("bert_queue_sequences") > 0)
        assert server.metric("bert_queue_tokens") > 0
        assert server.metric("bert_queue_wait_seconds") > 0.0001
        tokenized = server.metric("bert_tokenize_duration_seconds_count")
        for _ in range(3):
            reply = ask(server)
            assert reply.status == 429
            assert reply.json["error_type"] == "overloaded"
            assert "Retry-After" in reply.error
            assert int(reply.headers["retry-after"]) >= 1
        assert server.metric("bert_rejected_total", reason="overloaded") == 3
        assert server.metric("bert_tokenize_duration_seconds_count") == tokenized  # no work is lost on what is refused
        assert server.metric("bert_requests_total", status="429") == 3
        device.release()
        assert bulk.result().status == 200
        assert ask(server).status == 200
        eventually(lambda: server.metric("bert_queue_sequences") == 0)


def test_late_requests_fail_even_if_the_device_is_stuck(serve_faulty: ServeFaulty, device: Device) -> None:
    with ThreadPoolExecutor(4) as threads, serve_faulty("--request-timeout-s", "0.3") as server:
        device.hold()
        first = threads.submit(ask, server)
        eventually(lambda: device.is_held)
        waiting = [first, *(threads.submit(ask, server) for _ in range(3))]
        for reply in waiting:
            assert reply.result().status == 504
            assert reply.result().json["error_type"] == "deadline_exceeded"
            assert "0.3 s" in reply.result().error
        assert server.metric("bert_rejected_total", reason="deadline_exceeded") == 4
        assert server.metric("bert_inflight_requests") == 0
        tokens = server.metric("bert_tokens_total")
        device.release()
        good = ask(server)
        assert good.status == 200
        # Of those that were late, only the one that was running when its time was up has run.
        assert server.metric("bert_tokens_total") - tokens <= 2 * good.json["usage"]["tokens"]


def test_work_of_disconnected_callers_is_dropped(steady: Steady) -> None:
    server, device = steady.server, steady.device
    before = server.metric("bert_batch_sequences_sum"), server.metric("bert_cancelled_total")
    with ThreadPoolExecutor(1) as threads:
        device.hold()
        running = threads.submit(ask, server)
        eventually(lambda: server.metric("bert_inflight_requests") == 1)
        with wire(server.url) as line:
            line.send(message(json.dumps({"inputs": [TEXT] * BULK}).encode()))
            eventually(lambda: server.metric("bert_queue_sequences") == BULK)
        eventually(lambda: server.metric("bert_cancelled_total") == before[1] + 1)
        eventually(lambda: server.metric("bert_queue_sequences") == 0)
        assert server.metric("bert_inflight_requests") == 1
        device.release()
        assert running.result().status == 200
    assert server.metric("bert_batch_sequences_sum") == before[0] + 1  # none of the 512 ran
    eventually(lambda: [request["status"] for request in steady.requests] == [499, 200])


def test_a_disconnected_caller_does_not_fail_its_batch(steady: Steady) -> None:
    server, device = steady.server, steady.device
    cancelled = server.metric("bert_cancelled_total")
    with ThreadPoolExecutor(4) as threads:
        device.hold()
        first = threads.submit(ask, server)
        eventually(lambda: server.metric("bert_inflight_requests") == 1)
        with wire(server.url) as line:
            line.send(message(json.dumps({"inputs": TEXT}).encode()))
            others = [threads.submit(ask, server) for _ in range(3)]
            eventually(lambda: server.metric("bert_queue_sequences") == 4)
        eventually(lambda: server.metric("bert_cancelled_total") == cancelled + 1)
        device.release()
        assert [reply.result().status for reply in (first, *others)] == [200] * 4
    assert first.result().json == others[0].result().json


def test_a_bulk_request_takes_turns_with_single_texts(steady: Steady) -> None:
    """Single requests that come while a bulk request waits run in its next batches, not after its last."""
    server, device = steady.server, steady.device
    with ThreadPoolExecutor(4) as threads:
        device.hold()
        bulk = threads.submit(ask, server, [TEXT] * BULK)
        eventually(lambda: server.metric("bert_queue_sequences") > BULK / 2)
        singles = [threads.submit(ask, server) for _ in range(3)]
        eventually(lambda: server.metric("bert_inflight_requests") == 4)
        device.release()
        assert {reply.result().status for reply in (bulk, *singles)} == {200}
    eventually(lambda: [request["sequences"] for request in steady.requests] == [1, 1, 1, BULK])
