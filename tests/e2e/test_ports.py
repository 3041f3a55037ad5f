"""Ports of their own for metrics and operators, with one process and with several."""

import re
from pathlib import Path

import pytest

from tests.support import Connection, ServerProcess, run_app, serving

KEY = "an-admin-key"
HEALTH = ("/livez", "/readyz", "/health")


def url_of(server: ServerProcess, path: str) -> str:
    """Where the log says that a path is."""
    found = re.search(rf"{path} is on (http://[^\" ]+)", server.log)
    assert found, server.log
    return found[1]


def status(url: str, path: str, **headers: str) -> int:
    connection = Connection(url)
    try:
        return connection.ask("GET", path, headers=headers).status
    finally:
        connection.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_has_a_port_of_its_own_is_on_no_other(shared_models: Path, workers: str) -> None:
    ports = ("--metrics-port", "0", "--admin-port", "0", "--admin-key", KEY, "--workers", workers)
    with serving(shared_models, *ports) as server:
        metrics, admin = url_of(server, "/metrics"), url_of(server, "/admin")
        key = {"Authorization": f"Bearer {KEY}"}
        assert [status(url, "/metrics") for url in (server.url, metrics, admin)] == [404, 200, 404]
        assert [status(url, "/admin/models", **key) for url in (server.url, metrics, admin)] == [404, 404, 200]
        assert status(admin, "/admin/models") == 401
        assert [status(url, "/v1/models") for url in (server.url, metrics, admin)] == [200, 404, 404]
        assert {status(url, path) for url in (server.url, metrics, admin) for path in HEALTH} == {200}
        assert server.stop() == 0


def test_a_server_listens_on_every_address_of_a_list(shared_models: Path) -> None:
    with serving(shared_models, "--host", "127.0.0.1,::1") as server:
        found = re.search(r"listening on (http://127\.0\.0\.1:\d+), (http://\[::1\]:\d+) ", server.log)
        assert found
        assert [status(url, "/livez") for url in found.groups()] == [200, 200]


def test_a_port_for_operators_without_their_key_ends_the_start(shared_models: Path) -> None:
    ended = run_app("--models", str(shared_models), "--port", "0", "--admin-port", "0")
    assert ended.returncode == 1
    assert "BERT_ADMIN_PORT is set and there is no admin key" in ended.stderr
