"""`--workers 2`: two front ends and an engine, and what is left when one of them dies."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_export.package import ExportOptions, export
from tests.support import ROOT, ServerProcess, serving

WITHIN_S = 30.0
TEXTS = ["a", "the cat sat on the mat", "Hello, world!", "one two three four five six seven eight nine ten"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("bert-single-label", "bert-fill-mask"):
        checkpoint = str(ROOT / "tests/fixtures/checkpoints" / name)
        export(ExportOptions(checkpoint, folder / name, variants=["cpu-fp32"]), lambda _: None)
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ServerProcess]:
    """For tests that leave it well."""
    with serving(models, "--workers", "2", "--threads", "1") as server:
        yield server


@pytest.fixture
def doomed(models: Path) -> Iterator[ServerProcess]:
    """For tests that end it."""
    with serving(models, "--workers", "2", "--threads", "1") as server:
        yield server


def children(pid: int) -> dict[int, str]:
    """The supervisor's processes by what they do: only the engine maps ONNX graphs' runtime threads."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in listed}


def workers(server: ServerProcess) -> list[int]:
    return sorted(pid for pid, command in children(server.process.pid).items() if "spawn_main" in command)


def engine_of(server: ServerProcess) -> int:
    """The process that listens on the engine's socket."""
    sockets = {
        line.split()[6]
        for line in Path("/proc/net/unix").read_text().splitlines()
        if line.endswith("engine.sock") and line.split()[5] == "01" and line.split()[3] == "00010000"
    }
    for pid in workers(server):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            target = str(descriptor.readlink())
            if target.startswith("socket:[") and target[8:-1] in sockets:
                return pid
    pytest.fail("no process listens on the engine's socket")


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WITHIN_S
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def classify(server: ServerProcess, inputs: Any, **options: Any) -> httpx.Response:
    body = {"model": "bert-single-label", "inputs": inputs}
    return httpx.post(f"{server.url}/v1/classify", json=body, timeout=60, **options)


def metric(server: ServerProcess, name: str) -> float:
    """The sum of a metric's series, as one scrape tells it."""
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))


def all_ready(server: ServerProcess) -> bool:
    """Whether every front end is: connections are spread over them, so one answer says little."""
    return metric(server, "bert_engine_up") == 1 and all(
        httpx.get(f"{server.url}/readyz").status_code == 200 for _ in range(8)
    )


def test_answers_are_those_of_one_process(models: Path, server: ServerProcess) -> None:
    fill = {"model": "bert-fill-mask", "inputs": ["the [MASK] sat", "[MASK] and [MASK]"]}
    with serving(models, "--threads", "1") as alone:
        for text in TEXTS:
            assert classify(server, text).json() == classify(alone, text).json()
        assert classify(server, TEXTS * 20).json() == classify(alone, TEXTS * 20).json()
        for parameters in ({}, {"top_k": 2}, {"targets": ["the", "a"]}):
            body = fill | {"parameters": parameters}
            answers = [httpx.post(f"{one.url}/v1/fill-mask", json=body).json() for one in (server, alone)]
            assert answers[0] == answers[1]
            assert "predictions" in answers[0]


def test_metrics_are_whole_from_any_front_end(server: ServerProcess) -> None:
    names = ("bert_requests_total", "bert_tokens_total", "bert_batch_sequences_sum")
    requests, tokens, sequences = (metric(server, name) for name in names)
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda i: classify(server, TEXTS[i % 4]), range(40)))
    ran = sum(reply.json()["usage"]["tokens"] for reply in replies)
    for _ in range(6):
        assert metric(server, "bert_requests_total") == requests + 40
        assert metric(server, "bert_tokens_total") == tokens + ran
        assert metric(server, "bert_batch_sequences_sum") == sequences + 40
        assert metric(server, "bert_inflight_requests") == 0
        assert metric(server, "bert_model_info") == 2


def test_an_engine_that_dies_is_told_and_replaced(server: ServerProcess) -> None:
    engine = engine_of(server)
    os.kill(engine, signal.SIGSTOP)
    with ThreadPoolExecutor(16) as threads:
        waiting = [threads.submit(classify, server, text) for text in TEXTS * 4]
        until(lambda: metric(server, "bert_inflight_requests") == 16)
        os.kill(engine, signal.SIGKILL)
        replies = [reply.result() for reply in waiting]
    assert {reply.status_code for reply in replies} == {503}
    assert {reply.json()["error_type"] for reply in replies} == {"engine_lost"}
    assert all("retry-after" in reply.headers for reply in replies)
    until(lambda: all_ready(server))
    assert engine_of(server) != engine
    assert metric(server, "bert_engine_restarts_total") == 1
    assert metric(server, "bert_engine_up") == 1
    assert classify(server, TEXTS).status_code == 200


def test_processor_time_never_falls(doomed: ServerProcess) -> None:
    """Not even by what the engine took, which is the most of it, when it is gone."""
    told = [metric(doomed, "process_cpu_seconds_total")]
    os.kill(engine_of(doomed), signal.SIGKILL)
    until(lambda: told.append(metric(doomed, "process_cpu_seconds_total")) or "starting another" in doomed.log)
    told += [metric(doomed, "process_cpu_seconds_total") for _ in range(4)]
    assert told == sorted(told)


def test_a_front_end_that_dies_loses_only_its_own_requests_and_is_replaced(server: ServerProcess) -> None:
    engine = engine_of(server)
    before = workers(server)
    victim = next(pid for pid in before if pid != engine)
    stop = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        while not stop.is_set():
            try:
                statuses.append(classify(server, TEXTS[1]).status_code)
            except httpx.TransportError:
                statuses.append(0)

    with ThreadPoolExecutor(4) as threads:
        asking: list[Future[None]] = [threads.submit(ask) for _ in range(4)]
        until(lambda: len(statuses) > 20)
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(workers(server)) == len(before) and victim not in workers(server))
        so_far = len(statuses)
        until(lambda: len(statuses) > so_far + 20)
        stop.set()
        for one in asking:
            one.result()
    # Of four callers at a time, each can have lost the request that the victim had in hand.
    assert statuses.count(0) <= 4
    assert set(statuses) <= {0, 200, 503}
    assert engine_of(server) == engine
    assert "starting another" in server.log


def test_sigterm_loses_nothing_and_leaves_nothing(doomed: ServerProcess) -> None:
    pids, engine = workers(doomed), engine_of(doomed)
    os.kill(engine, signal.SIGSTOP)
    with ThreadPoolExecutor(16) as threads:
        waiting = [threads.submit(classify, doomed, TEXTS * 30) for _ in range(16)]
        until(lambda: metric(doomed, "bert_inflight_requests") == 16)
        doomed.process.send_signal(signal.SIGTERM)
        until(lambda: doomed.log.count("SIGTERM") == 3)
        os.kill(engine, signal.SIGCONT)
        assert [reply.result().status_code for reply in waiting] == [200] * 16
    assert doomed.process.wait(WITHIN_S) == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_without_a_supervisor_nothing_runs_on(doomed: ServerProcess) -> None:
    pids = workers(doomed)
    doomed.process.kill()
    doomed.process.wait()
    until(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()])


def test_what_cannot_start_is_told_once_and_ends(models: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", str(models / "bert-single-label"), str(broken)], check=True)
    graph = broken / "cpu-fp32.onnx"
    graph.write_bytes(graph.read_bytes()[:-10])
    with serving(tmp_path, "--workers", "2", wait=False) as server:
        assert server.process.wait(WITHIN_S) == 1
        told = [record["message"] for record in server.records if record["level"] == "critical"]
    assert len(told) == 1
    assert "the copy is incomplete" in told[0]
