"""A file of keys: callers by name in log and metrics, rates that hold for all front ends, and changes without a restart."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Device, ServeFaulty
from tests.e2e.processes import engine_of, workers
from tests.support import Connection, Reply, ServerProcess, eventually, run_app, serving

TEXT = "The cat sat on the mat."
KEYS = {name: f"sk-{name}-0123456789" for name in ("bulk", "bodies", "single", "slow")}
FILE = f"""
# Who may ask.
bulk    {KEYS["bulk"]}
bodies  {KEYS["bodies"]}
single  sha256:{sha256(KEYS["single"].encode()).hexdigest()}  share=2
slow    {KEYS["slow"]}  tokens_per_second=100 burst=100
"""


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]}"}


def ask(server: ServerProcess, name: str, inputs: Any = TEXT, path: str = "/v1/classify") -> Reply:
    return server.ask("POST", path, {"inputs": inputs}, bearer(name))


@pytest.fixture(scope="module", params=["1", "2"], ids=["one process", "two workers"])
def locked(
    request: pytest.FixtureRequest, shared_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ServerProcess, Path]]:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(FILE)
    arguments = ("--threads", "1", "--workers", request.param, "--api-keys-file", str(path))
    with serving(shared_models / "sentiment", *arguments, BERT_API_KEY="the-single-one") as server:
        yield server, path
        assert server.stop() == 0
        assert not [key for key in (*KEYS.values(), "the-single-one") if key in server.log]


def test_callers_have_names_in_log_and_metrics(locked: tuple[ServerProcess, Path]) -> None:
    server, _ = locked
    before = server.metric("bert_caller_tokens_total", caller="single")
    reply = ask(server, "single")
    assert reply.status == 200
    assert server.told(reply.headers["x-request-id"])["caller"] == "single"
    assert server.metric("bert_caller_tokens_total", caller="single") == before + reply.json["usage"]["tokens"]
    answered = server.metric("bert_caller_requests_total", caller="bulk", status="200")
    listed = server.ask("GET", "/v1/models", headers=bearer("bulk"))
    assert server.told(listed.headers["x-request-id"])["caller"] == "bulk"
    tokens = server.ask("POST", "/tokenize", {"inputs": TEXT}, {"Authorization": KEYS["bulk"]})
    assert (tokens.status, server.told(tokens.headers["x-request-id"])["caller"]) == (200, "bulk")
    assert server.metric("bert_caller_requests_total", caller="bulk", status="200") == answered + 2
    by_single_key = server.post("/v1/classify", {"inputs": TEXT}, authorization="Bearer the-single-one")
    assert server.told(by_single_key.headers["x-request-id"])["caller"] == "default"
    refused = server.post("/v1/classify", {"inputs": TEXT}, authorization="Bearer sk-nobody")
    assert (refused.status, "caller" in server.told(refused.headers["x-request-id"])) == (401, False)


def test_a_caller_over_its_rate_is_refused_for_as_long_as_it_is_told(locked: tuple[ServerProcess, Path]) -> None:
    server, _ = locked
    texts = [TEXT] * 24
    first = ask(server, "slow", texts)
    assert first.status == 200  # which is more than may be saved up
    assert first.json["usage"]["tokens"] > 100
    told_at = time.monotonic()
    refused = [ask(server, "slow", texts) for _ in range(3)]  # by either front end
    # Whatever it sends, once the front end knows, which is told every tenth of a second.
    eventually(lambda: server.ask("POST", "/v1/classify", b"no JSON", bearer("slow")).status == 429)
    for reply in refused:
        assert (reply.status, reply.json["error_type"]) == (429, "rate_limited")
        assert "100 tokens a second" in reply.error
    assert ask(server, "single", texts).status == 200
    assert server.metric("bert_caller_throttled_total", caller="slow") == 4
    assert server.metric("bert_rejected_total", reason="overloaded") == 0
    retry_after_s = int(refused[0].headers["retry-after"])
    eventually(lambda: ask(server, "slow", texts).status == 200)
    # It is told in whole seconds; a request takes a few milliseconds, and the half second is for a busy machine.
    assert retry_after_s - 1 < time.monotonic() - told_at < retry_after_s + 0.5


def test_keys_are_changed_without_a_restart(locked: tuple[ServerProcess, Path]) -> None:
    server, path = locked
    kept = Connection(server.url)
    try:
        assert kept.ask("POST", "/v1/classify", {"inputs": TEXT}, bearer("bodies")).status == 200
        path.write_text(FILE.replace(KEYS["bodies"], "sk-rotated") + "new sk-new\n")
        ready = server.log.count("was read again")
        readers = server.log.count("ready in")
        eventually(lambda: server.log.count("was read again") >= ready + readers)
        for _ in range(4):  # by either front end
            assert ask(server, "bodies").status == 401
            assert server.post("/v1/classify", {"inputs": TEXT}, authorization="Bearer sk-rotated").status == 200
            assert server.post("/v1/classify", {"inputs": TEXT}, authorization="Bearer sk-new").status == 200
        assert kept.ask("POST", "/v1/classify", {"inputs": TEXT}, bearer("bodies")).status == 401
        assert server.metric("bert_caller_requests_total", caller="new", status="200") == 4
        path.write_text("wrong\n")
        eventually(lambda: server.log.count("line 1: there is no key") >= readers)
        assert ask(server, "single").status == 200
    finally:
        path.write_text(FILE)
        kept.close()
    eventually(lambda: ask(server, "bodies").status == 200)


def test_a_front_end_that_is_replaced_while_the_file_is_wrong_serves_once_it_is_right(
    shared_models: Path, tmp_path: Path
) -> None:
    path = tmp_path / "keys"
    path.write_text(FILE)
    with serving(shared_models / "sentiment", "--workers", "2", "--api-keys-file", str(path)) as server:
        path.write_text("wrong\n")
        eventually(lambda: server.log.count("The keys that were read before stay in force") == 2)
        os.kill(next(pid for pid in workers(server) if pid != engine_of(server)), signal.SIGKILL)
        eventually(lambda: "This process serves once it is right" in server.log)
        assert ask(server, "single").status == 200
        path.write_text(FILE + "new sk-new\n")
        eventually(lambda: server.log.count("ready in") == 3)
        path.write_text("wrong\n")
        eventually(lambda: server.log.count("The keys that were read before stay in force") == 4)
        os.kill(next(pid for pid in workers(server) if pid != engine_of(server)), signal.SIGKILL)
        eventually(lambda: server.log.count("This process serves once it is right") == 2)
        assert server.stop() == 0  # also while one waits


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_wrong_file_stops_the_start(shared_models: Path, tmp_path: Path, workers: str) -> None:
    path = tmp_path / "keys"
    path.write_text("one sk-secret\ntwo sk-secret\n")
    arguments = ("--models", str(shared_models / "sentiment"), "--port", "0", "--workers", workers)
    ended = run_app(*arguments, "--api-keys-file", str(path))
    assert ended.returncode == 1
    assert "line 2: its key is that of line 1" in ended.stderr
    assert "sk-secret" not in ended.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_backlog_of_one_caller_refuses_no_other(
    serve_faulty: ServeFaulty, device: Device, tmp_path: Path, workers: str
) -> None:
    path = tmp_path / "keys"
    path.write_text(FILE)
    arguments = ("--workers", workers, "--batch-tokens", "64", "--max-queue-s", "0.05", "--api-keys-file", str(path))
    with ThreadPoolExecutor(8) as threads, serve_faulty(*arguments) as server:
        ask(server, "single")
        device.hold()
        bulk = [threads.submit(ask, server, "bulk", [TEXT] * 512) for _ in range(2)]
        eventually(lambda: server.metric("bert_queue_sequences") > 512 - 64)
        eventually(lambda: any(one.done() for one in bulk))
        [refused] = [one.result() for one in bulk if one.done()]
        assert (refused.status, refused.json["error_type"]) == (429, "overloaded")
        single = threads.submit(ask, server, "single")
        eventually(lambda: server.metric("bert_inflight_requests") == 2)
        device.release()
        assert single.result().status == 200
        assert sorted(one.result().status for one in bulk) == [200, 429]

        def callers() -> list[str]:
            return [one["caller"] for one in server.records if one.get("status") == 200]

        eventually(lambda: len(callers()) == 3)  # a line is written after its answer
        assert callers() == ["single", "single", "bulk"]
