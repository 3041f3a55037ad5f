"""The health check of the images, run as the image runs it."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "deploy" / "healthcheck.py"


@contextmanager
def answering(status: HTTPStatus) -> Iterator[tuple[int, list[str]]]:
    """Answer on a free port, keeping the paths that were asked for."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port, paths
        server.shutdown()
        thread.join()


def check(port: int) -> int:
    environment = {**os.environ, "BERT_PORT": str(port)}
    return subprocess.run([sys.executable, "-I", "-S", SCRIPT], env=environment, check=False, timeout=30).returncode


def test_a_server_that_is_ready_is_healthy() -> None:
    with answering(HTTPStatus.OK) as (port, paths):
        assert check(port) == 0
    assert paths == ["/readyz"]


def test_a_server_that_is_not_ready_is_not_healthy() -> None:
    with answering(HTTPStatus.SERVICE_UNAVAILABLE) as (port, _):
        assert check(port) == 1


def test_no_server_is_not_healthy() -> None:
    with answering(HTTPStatus.OK) as (port, _):
        pass
    assert check(port) == 1
