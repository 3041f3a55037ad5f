"""The recipes for proxies, run: two instances behind each, and callers that lose no request while these are replaced or die."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support import ROOT, Connection, Reply, ServerProcess, eventually, serving

RECIPES = ROOT / "deploy" / "proxies"
SHORT = {"model": "sentiment", "inputs": "The trains leave from there."}
LONG = {"model": "sentiment", "inputs": "The trains leave from there. " * 10_000}
CALLERS = 4
"""Connections that are always in use."""

pytestmark = pytest.mark.slow


def find_program(name: str) -> str:
    """Return the path of a proxy; without it, skip the test, or fail it in CI."""
    if found := shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin"):
        return found
    missing = f"{name} is not here: apt-get install {name}, or tests/deploy/install-proxies.sh"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@contextmanager
def reserved() -> Iterator[int]:
    """Return a port that is kept for who binds it with SO_REUSEADDR, however often that is."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


class Instance:
    """A server on a port of its own, which another one takes after it."""

    def __init__(self, models: Path, port: int, *arguments: str) -> None:
        self._models, self._port, self._arguments = models, port, arguments
        self._running = ExitStack()
        self.server = self._start()

    def _start(self) -> ServerProcess:
        arguments = ("--threads", "1", *self._arguments, "--port", str(self._port))
        return self._running.enter_context(serving(self._models, *arguments))

    @property
    def answers(self) -> float:
        """How many requests it has answered."""
        return self.server.metric("bert_requests_total", api="native", status="200")

    def replace(self) -> None:
        """Stop it as an orchestrator does, and start another one in its place, to the time when callers get answers from that."""
        assert self.server.stop() == 0, self.server.log
        self._running.close()
        self.server = self._start()
        eventually(lambda: self.answers > 0)

    def kill(self) -> None:
        self.server.process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        self._running.close()


class Callers:
    """Ask all the time, each on a connection that stays open."""

    def __init__(self, url: str, *bodies: object) -> None:
        self._url = url
        self._is_over = threading.Event()
        self.answers = 0
        self.failures: list[object] = []
        self._threads = [threading.Thread(target=self._ask, args=(body,)) for body in bodies]

    def _ask(self, body: object) -> None:
        connection = Connection(self._url)
        while not self._is_over.is_set():
            try:
                reply = connection.ask("POST", "/v1/classify", body)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)
                connection.close()
                continue
            if reply.status == 200:
                self.answers += 1
            else:
                self.failures.append(reply)
        connection.close()

    def go_on(self, answers: int) -> None:
        """Wait until so many more are answered."""
        wanted = self.answers + answers
        eventually(lambda: self.answers >= wanted)

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        self.go_on(50)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


Behind = Callable[..., tuple[str, list[Instance]]]


@contextmanager
def running(command: list[str], port: int, log_path: Path) -> Iterator[None]:
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def is_up() -> bool:
        assert process.poll() is None, log_path.read_text()
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            return False
        return True

    try:
        eventually(is_up)
        yield
    finally:
        process.terminate()
        process.wait(20)


def nginx(folder: Path, recipe: str) -> list[str]:
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "recipe.conf").write_text(recipe)
    paths = "".join(f"{name}_temp_path {folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {paths} include {folder}/recipe.conf; }}\n"
    )
    return [find_program("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf")]


def haproxy(folder: Path, recipe: str) -> list[str]:
    (folder / "haproxy.cfg").write_text(recipe)
    return [find_program("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]


@contextmanager
def holding() -> Iterator[tuple[str, threading.Event, threading.Event]]:
    """Yield the address of an instance that reads a request and answers only when it is told to, and whether it has read one."""
    is_read, may_answer = threading.Event(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            is_read.set()
            may_answer.wait()
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}", is_read, may_answer
        finally:
            may_answer.set()
            server.shutdown()
            thread.join()


def of_proxy(folder: Path) -> Iterator[bytes]:
    """Yield the log, and all files of nginx that are in a folder, also those that are there no more."""
    yield from (path.read_bytes() for path in folder.iterdir() if path.is_file())
    [main] = (folder / "pid").read_text().split()
    for pid in [main, *Path(f"/proc/{main}/task/{main}/children").read_text().split()]:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            if str(descriptor.readlink()).startswith(str(folder)):
                yield descriptor.read_bytes()


@pytest.mark.parametrize("buffer", ["4m", "16k"])
def test_a_text_is_in_no_file_and_no_log_of_nginx(tmp_path: Path, buffer: str) -> None:
    """Unless a body may be larger than what the recipe keeps in memory."""
    text = b"Donaudampfschifffahrt "
    with holding() as (address, is_read, may_answer), reserved() as port:
        recipe = (RECIPES / "nginx.conf").read_text().replace("listen 8080", f"listen 127.0.0.1:{port}")
        for one in ("127.0.0.1:8001", "127.0.0.1:8002"):
            recipe = recipe.replace(one, address)
        assert "client_body_buffer_size 4m" in recipe
        command = nginx(tmp_path, recipe.replace("client_body_buffer_size 4m", f"client_body_buffer_size {buffer}"))
        configuration = (tmp_path / "nginx.conf").read_text()
        assert "access_log off" in configuration
        logging = configuration.replace("access_log off", f"access_log {tmp_path}/access").replace(
            "stderr", "stderr info"
        )
        (tmp_path / "nginx.conf").write_text(logging)
        with running(command, port, tmp_path / "log"), ThreadPoolExecutor(1) as threads:
            connection = Connection(f"http://127.0.0.1:{port}")
            asked = threads.submit(connection.ask, "POST", "/v1/classify", text * 100_000)
            assert is_read.wait(20)
            is_written = any(text in content for content in of_proxy(tmp_path))
            may_answer.set()
            assert asked.result().status == 200
            connection.close()
            eventually(lambda: "POST /v1/classify" in (tmp_path / "access").read_text())
            assert not any(text in content for content in of_proxy(tmp_path))
    assert is_written is (buffer != "4m")


PROXIES = {"nginx": (nginx, "nginx.conf", "unix:"), "haproxy": (haproxy, "haproxy.cfg", "unix@")}
"""How each is started, its recipe, and what its address of a Unix socket begins with."""


@pytest.fixture(params=PROXIES)
def behind(request: pytest.FixtureRequest, tmp_path: Path, shared_models: Path) -> Iterator[Behind]:
    """Start two instances behind a proxy, below a path of it, the second maybe on a Unix socket, and return its address and them."""
    make, name, unix = PROXIES[request.param]
    with ExitStack() as running_now:

        def behind(
            *arguments: str, path: str = "/", workers: Sequence[str] = ("1", "1"), socket_path: Path | None = None
        ) -> tuple[str, list[Instance]]:
            find_program(request.param)  # or the instances are for nothing
            ports = [running_now.enter_context(reserved()) for _ in range(3)]
            addresses = [f"127.0.0.1:{port}" for port in ports[:2]]
            places: list[tuple[str, ...]] = [(), ()]
            if socket_path is not None:
                addresses[1], places[1] = f"{unix}{socket_path}", ("--uds", str(socket_path))
            instances = []
            for port, count, place in zip(ports, workers, places, strict=False):
                instances.append(Instance(shared_models, port, "--workers", count, *place, *arguments))
                running_now.callback(instances[-1].close)
            recipe = (RECIPES / name).read_text()
            for old, new in zip(["127.0.0.1:8001", "127.0.0.1:8002"], addresses, strict=True):
                assert old in recipe
                recipe = recipe.replace(old, new)
            recipe, found = re.subn(r"(listen |bind )(:?)8080", rf"\g<1>127.0.0.1:{ports[2]}", recipe)
            assert found == 1
            url = f"http://127.0.0.1:{ports[2]}"
            command = make(tmp_path, recipe.replace("location / {", f"location {path} {{"))
            running_now.enter_context(running(command, ports[2], tmp_path / "log"))
            return url, instances

        yield behind


def ask_as(source: str, url: str, path: str, headers: dict[str, str]) -> Reply:
    """Ask from another address of this machine."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20, source_address=(source, 0))
    connection.request("POST", path, '{"model": "sentiment", "inputs": "Good."}', headers)
    response = connection.getresponse()
    reply = Reply(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    connection.close()
    return reply


def callers_of(instances: list[Instance], request_id: str) -> list[tuple[str, int]]:
    """Return the callers of the requests of an id, as the logs name them, and the numbers of the instances that answered."""
    records = [(record, number) for number, instance in enumerate(instances) for record in instance.server.records]
    return [(record["client"], number) for record, number in records if record.get("request_id") == request_id]


def test_no_request_fails_while_all_instances_are_replaced(behind: Behind) -> None:
    url, instances = behind(workers=("1", "2"))
    with Callers(url, *[SHORT] * CALLERS, LONG) as callers:
        for instance in instances:
            instance.replace()
            callers.go_on(50)
    assert not callers.failures


def test_only_requests_that_run_may_fail_when_an_instance_dies(behind: Behind, request: pytest.FixtureRequest) -> None:
    url, instances = behind()
    with Callers(url, *[SHORT] * CALLERS) as callers:
        instances[0].kill()
        callers.go_on(200)
    # nginx sends them to the other; HAProxy not if the death resets their connection.
    assert len(callers.failures) <= (CALLERS if "haproxy" in request.node.name else 0)


def test_requests_arrive_with_their_id_and_the_address_of_their_caller(behind: Behind, tmp_path: Path) -> None:
    url, instances = behind(socket_path=tmp_path / "socket")
    ids = []
    for named in ({"x-request-id": "mine"}, {}):
        reply = ask_as("127.0.0.2", url, "/v1/classify", {"x-forwarded-for": "203.0.113.7", **named})
        assert reply.status == 200
        ids.append(reply.headers["x-request-id"])
    assert ids[0] == "mine"
    assert len(ids[1]) >= 32
    told = [eventually(partial(callers_of, instances, one)) for one in ids]
    assert sorted(told) == [[("127.0.0.2", 0)], [("127.0.0.2", 1)]]  # the second by a Unix socket


def test_an_instance_drops_the_request_of_a_caller_that_has_gone(behind: Behind) -> None:
    url, instances = behind("--max-inputs", "4000", "--max-queue-s", "300", "--request-timeout-s", "300")
    much = {"model": "sentiment", "inputs": ["The trains leave from there. " * 7] * 4000}
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    connection.request("POST", "/v1/classify", json.dumps(much), {"x-request-id": "gone"})
    eventually(lambda: any(one.server.metric("bert_inflight_requests") for one in instances))
    connection.close()
    (status,) = eventually(
        lambda: [one.server.told("gone")["status"] for one in instances if '"gone"' in one.server.log]
    )
    assert status == 499


@pytest.mark.parametrize("behind", ["nginx"], indirect=True)  # the other asks /readyz instead
def test_a_request_that_fails_on_all_instances_fails_alone(behind: Behind) -> None:
    url, _ = behind("--cors-allow-origin", "https://page.example")
    asks = {"origin": "https://page.example", "access-control-request-method": "POST"}
    too_long_an_answer = {**asks, "access-control-request-headers": "x" * 5000}  # which repeats them
    connection = Connection(url)
    for _ in range(4):
        assert connection.ask("OPTIONS", "/v1/classify", headers=too_long_an_answer).status == 502
        assert connection.ask("POST", "/v1/classify", SHORT).status == 200
    connection.close()


def test_a_proxy_may_serve_below_a_path(behind: Behind) -> None:
    url, _ = behind("--root-path", "/bert", path="/bert/")
    connection = Connection(url)
    html = {"accept": "text/html"}
    assert connection.ask("POST", "/bert/v1/classify", SHORT).status == 200
    assert b"<title>" in connection.ask("GET", "/bert/", headers=html).body
    assert connection.ask("GET", "/bert/openapi.json").json["servers"] == [{"url": "/bert"}]
    docs = connection.ask("GET", "/bert/docs").body.decode()
    for path in re.findall(r'(?:src|href)="(/[^"]+)"', docs):
        assert connection.ask("GET", path).status == 200, path
    connection.close()
