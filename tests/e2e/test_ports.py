"""Ports of their own for metrics and operators, with one process and with several."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.support import Connection, Reply, ServerProcess, run_app, serving, starting

KEY = "an-admin-key"
HEALTH = ("/livez", "/readyz", "/health")


def url_of(server: ServerProcess, path: str) -> str:
    """Where the log says that a path is."""
    found = re.search(rf"{path} is on (http://[^\" ]+)", server.log)
    assert found, server.log
    return found[1]


def told_at(server: ServerProcess, beginning: str) -> str:
    """When a line of the log was first written."""
    return min(one["time"] for one in server.records if one["message"].startswith(beginning))


def ask(url: str, path: str, **headers: str) -> Reply:
    connection = Connection(url)
    try:
        return connection.ask("GET", path, headers=headers)
    finally:
        connection.close()


def status(url: str, path: str, **headers: str) -> int:
    return ask(url, path, **headers).status


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_has_a_port_of_its_own_is_on_no_other(shared_models: Path, workers: str) -> None:
    ports = ("--metrics-port", "0", "--admin-port", "0", "--admin-key", KEY, "--workers", workers)
    with serving(shared_models, *ports) as server:
        metrics, admin = url_of(server, "/metrics"), url_of(server, "/admin")
        key = {"Authorization": f"Bearer {KEY}"}
        assert [status(url, "/metrics") for url in (server.url, metrics, admin)] == [404, 200, 404]
        assert [status(url, "/admin/models", **key) for url in (server.url, metrics, admin)] == [404, 404, 200]
        assert status(admin, "/admin/models") == 401
        assert "/admin/models" in ask(admin, "/openapi.json").json["paths"]
        assert [status(url, "/v1/models") for url in (server.url, metrics, admin)] == [200, 404, 404]
        assert {status(url, path) for url in (server.url, metrics, admin) for path in HEALTH} == {200}
        assert server.stop() == 0


def test_a_server_listens_on_every_address_of_a_list(shared_models: Path) -> None:
    with serving(shared_models, "--host", "127.0.0.1,::1") as server:
        found = re.search(r"listening on (http://127\.0\.0\.1:\d+), (http://\[::1\]:\d+) ", server.log)
        assert found
        assert [status(url, "/livez") for url in found.groups()] == [200, 200]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "0", "--admin-port", "0"], "BERT_ADMIN_PORT is set and there is no admin key"),
        (["--port", "9", "--metrics-port", "9"], "BERT_PORT and BERT_METRICS_PORT are both 9"),
        (["--uds", "."], "it is there, and no socket"),
    ],
)
def test_ports_that_cannot_be_end_the_start(shared_models: Path, arguments: list[str], says: str) -> None:
    ended = run_app("--models", str(shared_models), *arguments)
    assert ended.returncode == 1
    assert f"cannot start: {says}" in ended.stderr or f"cannot start: Cannot listen on .: {says}" in ended.stderr


def curl(socket: Path, path: str, *more: str) -> "subprocess.CompletedProcess[str]":
    command = ["curl", "-sS", "--fail", "--unix-socket", str(socket), *more, f"http://localhost{path}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_unix_socket_is_there_while_a_server_listens(shared_models: Path, tmp_path: Path, workers: str) -> None:
    path = tmp_path / "socket"
    with serving(shared_models, "--uds", str(path), "--workers", workers) as server:
        assert server.url == f"unix:{path}"
        assert curl(path, "/readyz").stdout == '{"status":"ready"}'
        assert "another server does" in run_app("--models", str(shared_models), "--uds", str(path)).stderr
        body = ("-H", "Content-Type: application/json", "-d", '{"model":"sentiment","inputs":"a good film"}')
        assert curl(path, "/v1/classify", *body, "-H", "X-Request-Id: direct").returncode == 0
        forwarded = ("-H", "X-Request-Id: proxied", "-H", "X-Forwarded-For: 192.0.2.7")
        assert curl(path, "/v1/classify", *body, *forwarded).returncode == 0
        assert server.told("direct")["client"] == "unix:"
        assert server.told("proxied")["client"] == "192.0.2.7"
        assert server.stop() == 0, server.log
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("is_unix", [False, True])
def test_nobody_can_connect_before_the_models_are_loaded(
    shared_models: Path, tmp_path: Path, workers: str, is_unix: bool
) -> None:
    path = tmp_path / "socket"
    place = ("--uds", str(path)) if is_unix else ()
    more = ("--listen-when-ready", "--metrics-port", "0", "--workers", workers)
    with serving(shared_models, *more, *place) as server:
        if is_unix:
            assert curl(path, "/readyz").returncode == 0
        else:
            assert status(server.url, "/readyz") == 200
        # By their times: each process writes its own lines.
        times = [told_at(server, beginning) for beginning in ("/metrics is on", "ready in", "listening on")]
        assert times == sorted(times)
        assert server.stop() == 0


def test_a_stop_while_nobody_can_connect(shared_models: Path) -> None:
    with starting(
        shared_models,
        "--listen-when-ready",
        "--metrics-port",
        "0",
        environment={},
        until='/metrics is on ([^ "]+)',
        wait=False,
    ) as server:
        assert status(server.url, "/livez") == 200
        assert server.stop() == 0
        assert "listening on" not in server.log
