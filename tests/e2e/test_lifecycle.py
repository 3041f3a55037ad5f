"""From the start to the end of a server: readiness, and what becomes of requests when it stops."""

import json
import os
import pty
import resource
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import Device, ServeFaulty
from tests.e2e.processes import send_to_all
from tests.e2e.wire import head, wire
from tests.support import (
    HAPPEN_WITHIN_S,
    ROOT,
    START_WITHIN_S,
    Connection,
    Reply,
    ServerProcess,
    eventually,
    is_alive,
    serving,
)

GOOD = {"inputs": "The cat sat on the mat."}
CALLERS = 32
FILES = 100
PROBLEMS = ("warning", "error", "critical")


@pytest.fixture(autouse=True)
def _sighup_as_in_a_terminal() -> Iterator[None]:
    """A server inherits that it is ignored, and the tests themselves may run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def is_refused(server: ServerProcess) -> bool:
    """Whether the port is closed: a connection would not even wait for somebody to take it."""
    where = urlsplit(server.url)
    try:
        socket.create_connection((where.hostname, where.port)).close()
    except ConnectionRefusedError:
        return True
    return False


def ask(server: ServerProcess) -> Reply:
    return server.post("/v1/classify", GOOD)


def test_connections_may_exceed_the_soft_limit_of_open_files(shared_models: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
    try:
        with serving(shared_models / "sentiment", "--threads", "1") as server:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            callers = [Connection(server.url) for _ in range(FILES + 1)]
            assert {caller.ask("GET", "/livez").status for caller in callers} == {200}
            for caller in callers:
                caller.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_livez_answers_while_models_load_and_readyz_after(serve_faulty: ServeFaulty, device: Device) -> None:
    device.hold()
    with serve_faulty(wait=False) as server:
        eventually(lambda: is_alive(server))
        for reply in (server.ask("GET", "/readyz"), ask(server)):
            assert reply.status == 503
            assert reply.json["error_type"] == "not_ready"
            assert "loading" in reply.error
            assert int(reply.headers["retry-after"]) >= 1
        assert server.metric("bert_engine_up") == 0
        assert server.ask("GET", "/v1/models/sentiment").json["variant"] is None
        device.release()
        eventually(lambda: server.ask("GET", "/readyz").status == 200)
        assert server.ask("GET", "/readyz").json == {"status": "ready"}
        assert ask(server).status == 200
        assert server.metric("bert_engine_up") == 1
        assert server.metric("bert_rejected_total", reason="not_ready") == 1
        assert server.stop() == 0
        told = [record["message"] for record in server.records if record["logger"] != "app.access"]
    assert [message.split()[0] for message in told] == ["listening", "model", "ready", "SIGTERM:", "stopped"]
    assert "variant cpu-fp32 on CPUExecutionProvider" in told[1]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_under_load_loses_nothing(serve_faulty: ServeFaulty, device: Device, workers: str) -> None:
    with (
        ThreadPoolExecutor(CALLERS) as threads,
        serve_faulty("--workers", workers, LINGER_S="60") as server,
        closing(Connection(server.url)) as idle,
    ):
        assert idle.ask("GET", "/livez").status == 200
        device.hold()
        waiting = [threads.submit(ask, server) for _ in range(CALLERS)]
        eventually(lambda: server.metric("bert_inflight_requests") == CALLERS)
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: is_refused(server))  # takes no connections
        reply = idle.ask("GET", "/readyz")  # and asks for no more requests
        assert (reply.status, reply.headers["connection"]) == (503, "close")
        assert "shutting down" in reply.error
        assert not any(reply.done() for reply in waiting)
        device.release()
        assert [reply.result().status for reply in waiting] == [200] * CALLERS
        assert server.process.wait(HAPPEN_WITHIN_S) == 0
        assert not [record for record in server.records if record["level"] in PROBLEMS]


@pytest.mark.parametrize(("workers", "to_all"), [("1", False), ("2", False), ("2", True)])
def test_a_stop_during_traffic_loses_nothing(serve_faulty: ServeFaulty, workers: str, *, to_all: bool) -> None:
    """Callers that keep their connections, and ask again as soon as they are answered, until they are told to stop."""
    answered: Counter[int] = Counter()

    def call(number: int) -> list[int]:
        statuses = []
        connection = Connection(server.url)
        try:
            while True:
                reply = connection.ask("POST", "/v1/classify", GOOD)
                statuses.append(reply.status)
                answered[number] += 1
                if reply.headers.get("connection") == "close":
                    return statuses
        finally:
            connection.close()

    with ThreadPoolExecutor(CALLERS) as threads, serve_faulty("--workers", workers, LINGER_S="60") as server:
        callers = [threads.submit(call, number) for number in range(CALLERS)]
        eventually(lambda: len(answered) == CALLERS)
        if to_all:
            send_to_all(server, signal.SIGTERM)
        else:
            server.process.send_signal(signal.SIGTERM)
        assert {status for caller in callers for status in caller.result()} == {200}
        assert server.process.wait(HAPPEN_WITHIN_S) == 0
        assert not [record for record in server.records if record["level"] in PROBLEMS]
        # The process that was started handles it alone.
        assert sum("SIGTERM" in record["message"] for record in server.records) == 1


def test_a_stop_waits_for_a_body_that_is_arriving(serve_faulty: ServeFaulty) -> None:
    body = json.dumps(GOOD).encode()
    with serve_faulty() as server, wire(server.url) as line:
        line.send(head(f"Content-Length: {len(body)}", "Expect: 100-continue"))
        assert line.reply().status == 100  # accepted
        line.send(body[:10])
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: not is_alive(server))
        line.send(body[10:])
        reply = line.reply()
        assert reply.status == 200
        assert reply.headers["connection"] == "close"
        assert server.process.wait(HAPPEN_WITHIN_S) == 0
    with socket.create_server((urlsplit(server.url).hostname, urlsplit(server.url).port)):
        pass  # the port is free again


def test_a_stop_ends_after_the_shutdown_timeout(serve_faulty: ServeFaulty, device: Device) -> None:
    with ThreadPoolExecutor(2) as threads, serve_faulty("--shutdown-timeout-s", "0.2") as server:
        device.hold()
        waiting: list[Future[Reply]] = [threads.submit(ask, server) for _ in range(2)]
        eventually(lambda: server.metric("bert_inflight_requests") == 2)
        assert server.stop() == 0  # though the device is stuck
        for reply in waiting:
            assert reply.result().status == 503
            assert reply.result().json["error_type"] == "not_ready"
            assert "stopped" in reply.result().error


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_does_not_wait_for_a_loading_model(serve_faulty: ServeFaulty, device: Device, workers: str) -> None:
    device.hold()
    with serve_faulty("--workers", workers, "--shutdown-timeout-s", "1", wait=False) as server:
        eventually(lambda: device.is_held and is_alive(server))
        assert server.stop() == 0
        assert "while the models were loading" in server.log
        assert "killed" not in server.log


def test_sigterm_to_every_process_ends_a_start(serve_faulty: ServeFaulty, device: Device) -> None:
    device.hold()
    with serve_faulty("--workers", "2", wait=False) as server:
        eventually(lambda: device.is_held and is_alive(server))
        send_to_all(server, signal.SIGTERM)
        assert server.process.wait(HAPPEN_WITHIN_S) == 0
        assert not [record for record in server.records if record["level"] in PROBLEMS]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(serve_faulty: ServeFaulty, device: Device, number: signal.Signals) -> None:
    with ThreadPoolExecutor(1) as threads, serve_faulty() as server:
        device.hold()
        waiting = threads.submit(ask, server)
        eventually(lambda: server.metric("bert_inflight_requests") == 1)
        server.process.send_signal(number)
        eventually(lambda: f"{number.name}: finishing" in server.log)
        assert server.stop_now(number) == 128 + number
        with pytest.raises(OSError, match=r"closed connection|reset"):
            waiting.result()


def test_sighup_hastens_no_stop(serve_faulty: ServeFaulty, device: Device) -> None:
    """systemd sends SIGHUP after SIGTERM."""
    with ThreadPoolExecutor(1) as threads, serve_faulty() as server:
        device.hold()
        waiting = threads.submit(ask, server)
        eventually(lambda: server.metric("bert_inflight_requests") == 1)
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: "finishing what was accepted" in server.log)
        for _ in range(2):
            server.process.send_signal(signal.SIGHUP)
        device.release()
        assert waiting.result().status == 200
        assert server.process.wait(HAPPEN_WITHIN_S) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_ends_with_its_terminal(shared_models: Path, tmp_path: Path, workers: str) -> None:
    terminal, end = pty.openpty()
    models, log = str(shared_models / "sentiment"), tmp_path / "log"
    command = ["setsid", "--ctty", sys.executable, "-m", "app", "--models", models, "--port", "0", "--workers", workers]
    with log.open("wb") as stream:
        process = subprocess.Popen([*command, "--threads", "1"], stdin=end, stdout=stream, stderr=stream, cwd=ROOT)
    try:
        os.close(end)
        eventually(lambda: log.read_text().count("ready in") == int(workers), START_WITHIN_S)
        os.close(terminal)
        assert process.wait(HAPPEN_WITHIN_S) == 0
    finally:
        process.kill()
        process.wait()
    assert "SIGHUP: finishing what was accepted" in log.read_text()


def test_a_server_under_nohup_outlives_its_terminal(shared_models: Path) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    with serving(shared_models / "sentiment", "--threads", "1") as server:
        server.process.send_signal(signal.SIGHUP)
        assert ask(server).status == 200
        assert server.stop() == 0
        assert "SIGHUP" not in server.log


def test_serving_imports_no_training_library(shared_models: Path) -> None:
    """They take seconds to import and gigabytes to install."""
    with serving(shared_models / "sentiment", "--threads", "1", PYTHONPROFILEIMPORTTIME="1") as server:
        assert ask(server).status == 200
        imported = {
            line.split("|")[-1].strip().split(".")[0] for line in server.log.splitlines() if "import time:" in line
        }
    assert {"onnxruntime", "tokenizers"} <= imported  # or the next line would say nothing
    assert not imported & {"torch", "transformers", "safetensors", "onnx", "huggingface_hub", "model_export", "rich"}
