"""`--workers 2`: two front ends and an engine, and what is left when one of them dies."""

import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import ModelsOf
from tests.e2e.processes import (
    WITHIN_S,
    all_ready,
    children,
    classify,
    connections,
    engine_of,
    metric,
    send_to_all,
    until,
    workers,
)
from tests.support import ServerProcess, serving, starting

TEXTS = ["a", "the cat sat on the mat", "Hello, world!", "one two three four five six seven eight nine ten"]


@pytest.fixture(scope="module")
def models(models_of: ModelsOf) -> Path:
    return models_of({name: name for name in ("bert-single-label", "bert-fill-mask")})


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


def test_any_front_end_reports_the_metrics_of_all(server: ServerProcess) -> None:
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


def test_a_dead_engine_fails_its_requests_and_is_replaced(server: ServerProcess) -> None:
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
    # What the first one measured holds for the second, which had no quiet machine to measure on.
    told = [record["message"] for record in server.records if record["message"].startswith("model bert-single-label")]
    first, second = (message.partition(", loaded in")[0] for message in told)
    assert second == first
    assert "engine ended with status -9, killed by SIGKILL, often by the kernel for want of memory" in server.log
    assert metric(server, "bert_engine_restarts_total") == 1
    assert metric(server, "bert_engine_up") == 1
    assert classify(server, TEXTS).status_code == 200


def test_open_files_are_those_of_the_fullest_process(server: ServerProcess) -> None:
    family = [server.process.pid, *children(server.process.pid)]
    fullest = max(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in family)
    assert metric(server, "process_open_fds") == pytest.approx(fullest, abs=4)  # connections come and go


def test_processor_time_never_falls(doomed: ServerProcess) -> None:
    """Not even by what the engine took, which is the most of it, when it is gone."""
    told = [metric(doomed, "process_cpu_seconds_total")]
    os.kill(engine_of(doomed), signal.SIGKILL)

    def was_replaced() -> bool:
        told.append(metric(doomed, "process_cpu_seconds_total"))
        return "starting another" in doomed.log

    until(was_replaced)
    told += [metric(doomed, "process_cpu_seconds_total") for _ in range(4)]
    assert told == sorted(told)


def test_a_hung_engine_fails_its_requests_and_is_replaced(models: Path) -> None:
    with serving(models, "--workers", "2", "--threads", "1", "--request-timeout-s", "1") as server:
        until(lambda: all_ready(server))
        engine = engine_of(server)
        os.kill(engine, signal.SIGSTOP)
        with ThreadPoolExecutor(8) as threads:
            late = list(threads.map(lambda text: classify(server, text), TEXTS * 2))
        assert {(reply.status_code, reply.json()["error_type"]) for reply in late} == {(504, "deadline_exceeded")}
        until(lambda: "the engine hangs: killing it" in server.log)
        until(lambda: all_ready(server))
        assert engine_of(server) != engine
        assert classify(server, TEXTS).status_code == 200
        assert metric(server, "bert_engine_restarts_total") == 1
        messages = [record["message"] for record in server.records]
    # Each front end has heard nothing of it, and took no more requests.
    assert messages.count("the engine was lost: not ready") == 2
    assert messages.count("engine ended with status -9, killed by SIGKILL as it had hung; starting another") == 1


def test_a_hung_front_end_is_replaced_while_the_others_answer(server: ServerProcess) -> None:
    engine, before = engine_of(server), workers(server)
    victim = next(pid for pid in before if pid != engine)
    told, restarts = server.log.count("ready in "), metric(server, "bert_front_end_restarts_total")
    os.kill(victim, signal.SIGSTOP)
    assert [classify(server, text).status_code for text in TEXTS * 4] == [200] * 16
    until(lambda: victim not in workers(server) and len(workers(server)) == len(before))
    assert engine_of(server) == engine
    until(lambda: "killed by SIGKILL as it had hung; starting another" in server.log)
    until(lambda: server.log.count("ready in ") > told)
    assert metric(server, "bert_front_end_restarts_total") == restarts + 1
    assert [classify(server, text).status_code for text in TEXTS * 4] == [200] * 16


def test_a_stop_does_not_wait_for_processes_that_hang(doomed: ServerProcess) -> None:
    for pid in workers(doomed):
        os.kill(pid, signal.SIGSTOP)
    assert doomed.stop() == 0
    assert doomed.log.count("hangs: killing it") == 3


@pytest.mark.parametrize("front_ends", [2, 4])
def test_connections_are_spread_over_the_front_ends(models: Path, front_ends: int) -> None:
    with serving(models, "--workers", str(front_ends), "--threads", "1") as server:
        where = urlsplit(server.url)

        def fewest() -> int:
            """How many of 32 connections that are made at once, as a pool does, the front end with the fewest has."""
            with ExitStack() as opened:
                callers = [opened.enter_context(socket.socket()) for _ in range(32)]
                for caller in callers:
                    caller.setblocking(False)
                    caller.connect_ex((where.hostname, where.port))
                until(lambda: sum(connections(server)) == len(callers))
                least = connections(server)[0]
            until(lambda: sum(connections(server)) == 0)
            return least

        # They would have as many each if the machine had nothing else to do; where it has, a front end may get no turn once.
        until(lambda: fewest() >= 32 / front_ends / 4)


def test_a_dead_front_end_loses_only_its_own_requests(server: ServerProcess) -> None:
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
    until(lambda: "starting another" in server.log)


@contextmanager
def sixteen_requests_waiting(server: ServerProcess, inputs: list[str]) -> Iterator[None]:
    """Stop the engine with requests waiting for it. When the block is over it goes on, and answers all of them."""
    engine = engine_of(server)
    os.kill(engine, signal.SIGSTOP)
    with ThreadPoolExecutor(16) as threads:
        waiting = [threads.submit(classify, server, inputs) for _ in range(16)]
        until(lambda: metric(server, "bert_inflight_requests") == 16)
        yield
        os.kill(engine, signal.SIGCONT)
        assert [reply.result().status_code for reply in waiting] == [200] * 16


def test_sigterm_loses_nothing_and_leaves_nothing(doomed: ServerProcess) -> None:
    pids = workers(doomed)
    with sixteen_requests_waiting(doomed, TEXTS * 30):
        doomed.process.send_signal(signal.SIGTERM)
        until(lambda: doomed.log.count("finishing what was accepted") == 3)  # the supervisor has told the front ends
        # What comes now is refused at once, as with one process, and not left waiting for nobody.
        until(lambda: not takes_connections(doomed))
    assert doomed.process.wait(WITHIN_S) == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def takes_connections(server: ServerProcess) -> bool:
    """Whether a connection is taken at all, be it to wait for somebody who reads it."""
    url = urlsplit(server.url)
    try:
        with socket.create_connection((url.hostname, url.port or 0)):
            return True
    except ConnectionRefusedError:
        return False


def test_ctrl_c_reaches_every_process_and_loses_nothing(doomed: ServerProcess) -> None:
    pids = workers(doomed)
    with sixteen_requests_waiting(doomed, TEXTS):
        doomed.process.send_signal(signal.SIGINT)
        until(lambda: doomed.log.count("finishing what was accepted") == 3)  # the supervisor has told the front ends
        for pid in pids:
            os.kill(pid, signal.SIGINT)  # as the terminal does, whenever it comes
    assert doomed.process.wait(WITHIN_S) == 0
    assert "again" not in doomed.log


def test_signals_to_every_process_lose_nothing(doomed: ServerProcess) -> None:
    """As systemd and `timeout` send SIGTERM; SIGHUP is a closed terminal's."""
    pids = children(doomed.process.pid)
    with sixteen_requests_waiting(doomed, TEXTS):
        send_to_all(doomed, signal.SIGHUP, signal.SIGTERM)
        until(lambda: doomed.log.count("finishing what was accepted") == 3)
    assert doomed.process.wait(WITHIN_S) == 0
    until(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()])
    assert {record["level"] for record in doomed.records} == {"info"}
    assert doomed.log.count("SIGTERM") == 1  # the supervisor alone handles it


def test_sighup_to_every_process_ends_none(doomed: ServerProcess) -> None:
    before = children(doomed.process.pid)
    send_to_all(doomed, signal.SIGHUP)
    until(lambda: "SIGHUP: reading anew" in doomed.log)
    engine = engine_of(doomed)
    os.kill(engine, signal.SIGKILL)
    until(lambda: engine not in workers(doomed) and len(workers(doomed)) == 3)
    until(lambda: all_ready(doomed))
    # multiprocessing's own process, too, which has to be there before another child is.
    assert len(before.keys() & children(doomed.process.pid).keys()) == len(before) - 1
    assert doomed.stop() == 0
    assert "resource_tracker" not in doomed.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(doomed: ServerProcess, number: signal.Signals) -> None:
    pids, engine = workers(doomed), engine_of(doomed)
    os.kill(engine, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(classify, doomed, TEXTS)
        until(lambda: metric(doomed, "bert_inflight_requests") == 1)
        doomed.process.send_signal(number)
        until(lambda: f"{number.name}: finishing" in doomed.log)
        assert doomed.stop_now(number) == 128 + number
        with pytest.raises(httpx.TransportError):
            waiting.result()
    assert f"{number.name} again" in doomed.log
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def test_without_a_supervisor_every_process_ends_and_cleans_up(models: Path, tmp_path: Path) -> None:
    with serving(models, "--workers", "2", "--threads", "1", TMPDIR=str(tmp_path)) as doomed:
        pids = workers(doomed)
        assert list(tmp_path.glob("bert-*"))
        doomed.process.kill()
        doomed.process.wait()
        until(lambda: not [pid for pid in pids if Path(f"/proc/{pid}").exists()])
        log = doomed.log
    assert log.count("the supervisor has died: finishing what was accepted") == 2
    assert "SIGTERM" not in log
    assert not list(tmp_path.glob("bert-*"))


def test_a_deleted_temporary_folder_costs_neither_processes_nor_counts(models: Path, tmp_path: Path) -> None:
    with serving(models, "--workers", "2", "--threads", "1", TMPDIR=str(tmp_path)) as server:
        until(lambda: all_ready(server))
        assert classify(server, TEXTS).status_code == 200
        [folder] = tmp_path.glob("bert-*")
        shutil.rmtree(folder)
        until(lambda: "was missing: listening there again" in server.log)
        engine = engine_of(server)
        for victim in (next(pid for pid in workers(server) if pid != engine), engine):
            os.kill(victim, signal.SIGKILL)
            until(lambda victim=victim: victim not in workers(server) and len(workers(server)) == 3)  # type: ignore[misc]
            until(lambda: all_ready(server))
        assert classify(server, TEXTS).status_code == 200
        assert metric(server, "bert_requests_total") == 2
        assert metric(server, "bert_batch_sequences_sum") == 2 * len(TEXTS)
        assert server.stop() == 0


def test_a_failed_start_is_logged_once(models: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(models / "bert-single-label", tmp_path / "broken")
    graph = broken / "cpu-fp32.onnx"
    graph.write_bytes(graph.read_bytes()[:-10])
    with starting(tmp_path, "--workers", "2", environment={}, wait=False) as server:
        assert server.process.wait(WITHIN_S) == 1
        told = [record["message"] for record in server.records if record["level"] == "critical"]
    assert len(told) == 1
    assert "the copy is incomplete" in told[0]
