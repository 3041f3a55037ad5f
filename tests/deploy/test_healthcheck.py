"""The health check of the images, run as the image runs it."""

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import UnixStreamServer

import pytest

from tests.certificates import Authority

SCRIPT = Path(__file__).parents[2] / "deploy" / "healthcheck.py"


@contextmanager
def answering(
    status: HTTPStatus, host: str = "127.0.0.1", context: ssl.SSLContext | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Answer on a free port, keeping the paths that were asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    class Server(HTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    is_unix = host.startswith("/")
    with UnixStreamServer(host, Handler) if is_unix else Server((host, 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield 1 if isinstance(server, UnixStreamServer) else server.server_port, paths
        server.shutdown()
        thread.join()


def check(port: int, host: str = "0.0.0.0", metrics_port: str = "", certificate: str = "", uds: str = "") -> int:
    environment = {
        **os.environ,
        "BERT_PORT": str(port),
        "BERT_HOST": host,
        "BERT_METRICS_PORT": metrics_port,
        "BERT_SSL_CERTFILE": certificate,
        "BERT_UDS": uds,
    }
    return subprocess.run([sys.executable, "-I", "-S", SCRIPT], env=environment, check=False, timeout=30).returncode


def test_a_server_that_is_ready_is_healthy() -> None:
    with answering(HTTPStatus.OK) as (port, paths):
        assert check(port) == 0
    assert paths == ["/readyz"]


@pytest.mark.parametrize(
    ("host", "listens_on"),
    [
        ("::", "127.0.0.1"),
        ("::,0.0.0.0", "::1"),
        ("0.0.0.0,::", "127.0.0.1"),
        ("::1", "::1"),
        ("127.0.0.2", "127.0.0.2"),
    ],
)
def test_the_server_is_asked_where_it_listens(host: str, listens_on: str) -> None:
    with answering(HTTPStatus.OK, listens_on) as (port, _):
        assert check(port, host) == 0
        assert check(port, "127.0.0.3") == 1


def test_the_port_of_metrics_is_asked_where_there_is_one() -> None:
    """It is always there, and speaks plain HTTP."""
    with answering(HTTPStatus.OK) as (port, paths):
        assert check(1, metrics_port=str(port)) == 0
        assert check(port, metrics_port="tcp://10.0.0.1:9000") == 0
        assert check(port, metrics_port="0") == 0
    assert paths == ["/readyz"] * 3


def test_a_server_with_tls_is_asked_by_tls_whoever_its_certificate_names(tmp_path: Path) -> None:
    certificate = Authority(tmp_path).sign("elsewhere")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate.path, certificate.key)
    with answering(HTTPStatus.OK, context=context) as (port, paths):
        assert check(port, certificate=str(certificate.path)) == 0
        assert check(port) == 1
    assert paths == ["/readyz"]


def test_a_check_without_the_certificate_that_is_asked_for_says_what_to_do() -> None:
    environment = os.environ | {"BERT_SSL_CERTFILE": "tls.crt", "BERT_SSL_CERT_REQS": "required"}
    ended = subprocess.run(
        [sys.executable, "-I", "-S", SCRIPT], env=environment, capture_output=True, text=True, check=False, timeout=30
    )
    assert ended.returncode == 1
    assert "Set BERT_METRICS_PORT" in ended.stderr


def test_a_server_of_a_unix_socket_is_asked_there(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with answering(HTTPStatus.OK, str(path)) as (_, paths):
        assert check(1, uds=str(path)) == 0
    assert paths == ["/readyz"]
    assert check(1, uds=str(path)) == 1


def test_a_server_that_is_not_ready_is_not_healthy() -> None:
    with answering(HTTPStatus.SERVICE_UNAVAILABLE) as (port, _):
        assert check(port) == 1


def test_no_server_is_not_healthy() -> None:
    with answering(HTTPStatus.OK) as (port, _):
        pass
    assert check(port) == 1
