"""Callers that ask for much do not keep one waiting that asks for little, under real load."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import Device, ServeFaulty
from tests.support import Connection, ServerProcess, eventually

TEXT = "The cat sat on the mat."
BATCH_S = 0.2
"""What a batch takes longer than on a free device: so much more than HTTP does that batches are what is measured."""
ASKED = 10
MOST_BATCHES = 3
"""For the slowest answer: a batch that runs already, its own, and as long as one for HTTP beside bodies of 4 MB on a busy machine.
Where requests take turns without regard to whose they are, a turn of all that wait here is over three batches."""


def body_of(*inputs: str) -> bytes:
    return b'{"inputs": [%s]}' % b",".join(b'"%s"' % text.encode() for text in inputs)


BULK = body_of(*[TEXT] * 512)
LARGE = body_of(*[f"{TEXT} " * 86_000] * 2)


@contextmanager
def asking(server: ServerProcess, caller: str, body: bytes, connections: int) -> Iterator[list[int]]:
    """Ask without pause on some connections until the server ends; the statuses are those of the answers until now."""
    statuses: list[int] = []

    def ask() -> None:
        connection = Connection(server.url)
        try:
            while True:
                reply = connection.ask("POST", "/v1/classify", body, {"Authorization": f"Bearer key-of-{caller}"})
                statuses.append(reply.status)
        except (OSError, http.client.HTTPException):
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(connections)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        server.stop()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_single_text_waits_for_no_more_than_the_batch_that_runs(
    serve_faulty: ServeFaulty, device: Device, tmp_path: Path, workers: str
) -> None:
    path = tmp_path / "keys"
    path.write_text("".join(f"{name} key-of-{name}\n" for name in ("bulk", "bodies", "single")))
    assert 4_000_000 < len(LARGE) < 4 * 2**20
    patience = ("--max-queue-s", "1000", "--request-timeout-s", "1000", "--shutdown-timeout-s", "0.1")
    with serve_faulty("--workers", workers, "--api-keys-file", str(path), "--batch-tokens", "128", *patience) as server:
        device.slow_down(BATCH_S)
        with asking(server, "bulk", BULK, 24), asking(server, "bodies", LARGE, 3) as answered:
            eventually(lambda: server.metric("bert_queue_sequences") > 23 * 512 and 200 in answered)
            before = len(answered)
            connection = Connection(server.url)
            for _ in range(ASKED):
                asked_at = time.monotonic()
                reply = connection.ask("POST", "/v1/classify", body_of(TEXT), {"Authorization": "Bearer key-of-single"})
                took_s = time.monotonic() - asked_at
                assert reply.status == 200
                assert took_s < MOST_BATCHES * BATCH_S
            connection.close()
            assert len(answered) > before  # large bodies went on coming
            assert set(answered) == {200}
