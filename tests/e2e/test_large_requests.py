"""What large requests may take of the machine, and that the caller's fault is the caller's error."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import ModelsOf
from tests.support import ServerProcess, eventually, serving

MIB = 2**20
CALLERS = 6


def memory(server: ServerProcess, name: str) -> float:
    """VmRSS or VmHWM, its highest, of a server's process, MiB."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def test_large_texts_in_windows_take_little_memory_and_give_it_back(models_of: ModelsOf) -> None:
    """Read whole, each of these took over 600 MiB, and most of that stayed."""
    body = {"inputs": "the cat sat on a mat, " * 190_000, "parameters": {"stride": 8}}
    with serving(models_of({"entities": "bert-entities"}), "--threads", "1", "--max-queue-s", "60") as server:
        before = memory(server, "VmRSS")
        with ThreadPoolExecutor(CALLERS) as threads:
            replies = list(threads.map(lambda _: server.post("/v1/entities", body), range(CALLERS)))
        for reply in replies:
            assert reply.status == 422
            assert "tokens" in reply.error
        # A body arrives in pieces, is read as text and tokenized in pieces: 30 MiB each, and 100 for what is tokenized at once.
        assert memory(server, "VmHWM") - before < CALLERS * 30 + 100
        # What Python and malloc keep in use of any load.
        eventually(lambda: memory(server, "VmRSS") - before < 64)
        assert server.stop() == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_too_much_for_the_timeout_is_the_callers_error(models_of: ModelsOf, workers: str) -> None:
    """A quarter of a million tokens take this model 5 s on the fastest core; tokenizing the first of them takes little."""
    inputs = ["the cat sat on the mat. " * 75] * 512
    models = models_of({"sentiment": "demo-classify"})
    with serving(models, "--workers", workers, "--request-timeout-s", "2", "--threads", "1") as server:
        reply = server.post("/v1/classify", {"inputs": inputs})
        assert reply.status == 422
        assert "BERT_REQUEST_TIMEOUT_S" in reply.error
        assert server.metric("bert_requests_total", status="422") == 1
        assert server.metric("bert_requests_total", status="504") == 0
