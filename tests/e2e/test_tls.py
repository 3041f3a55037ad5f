"""TLS with openssl's certificates and curl: what callers see, with one process and with several."""

import os
import re
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic

import pytest

from tests.certificates import Authority, Certificate
from tests.support import HAPPEN_WITHIN_S, ServerProcess, eventually, run_app, serving

BODY = b'{"model":"sentiment","inputs":"a good film"}'
REQUEST = (
    b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    % (len(BODY), BODY)
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    return authority.sign("localhost")


def flags(certificate: Certificate, *more: object) -> list[str]:
    return [str(one) for one in ("--ssl-certfile", certificate.path, "--ssl-keyfile", certificate.key, *more)]


@pytest.fixture(scope="module")
def server(shared_models: Path, certificate: Certificate, authority: Authority) -> Iterator[ServerProcess]:
    """Shows its certificate, and asks for those of callers."""
    more = ("--ssl-ca-certs", authority.path, "--ssl-cert-reqs", "optional", "--read-timeout-s", "2")
    ports = ("--metrics-port", "0", "--log-level", "debug")
    with serving(shared_models, *flags(certificate, *more, *ports)) as server:
        yield server
        assert server.stop() == 0, server.log
        assert '"error"' not in server.log, server.log


def port_of(server: ServerProcess) -> int:
    return int(server.url.rpartition(":")[2])


def curl(server: ServerProcess, authority: Authority, path: str, *more: object) -> "subprocess.CompletedProcess[str]":
    command = ["curl", "-sS", "--cacert", authority.path, *more, f"https://localhost:{port_of(server)}{path}"]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=30, check=False)


@contextmanager
def connected(
    server: ServerProcess, authority: Authority, certificate: Certificate | None = None
) -> Iterator[ssl.SSLSocket]:
    """Connect as a Python client does."""
    context = ssl.create_default_context(cafile=str(authority.path))
    if certificate is not None:
        context.load_cert_chain(certificate.path, certificate.key)
    plain = socket.create_connection(("127.0.0.1", port_of(server)), timeout=HAPPEN_WITHIN_S)
    with plain, context.wrap_socket(plain, server_hostname="localhost") as connection:
        yield connection


def answer(connection: socket.socket) -> bytes:
    """Return a head and its body."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def failures(server: ServerProcess) -> int:
    return server.log.count("a TLS handshake failed")


def test_a_caller_that_trusts_the_authority_is_answered_in_http_1_1(
    server: ServerProcess, authority: Authority
) -> None:
    ended = curl(server, authority, "/v1/classify", "-v", "-H", "Content-Type: application/json", "-d", BODY.decode())
    assert ended.returncode == 0, ended.stderr
    assert '"predictions"' in ended.stdout
    assert "ALPN: server accepted http/1.1" in ended.stderr
    assert curl(server, authority, "/readyz", "--tls-max", "1.2").returncode == 0


def test_versions_before_1_2_are_refused(server: ServerProcess, authority: Authority) -> None:
    assert curl(server, authority, "/readyz", "--tls-max", "1.1", "--tlsv1.0").returncode == 35


def test_the_log_names_who_a_callers_certificate_names(server: ServerProcess, authority: Authority) -> None:
    alice = authority.sign("alice")
    curl(server, authority, "/v1/models", "--cert", alice.path, "--key", alice.key, "-H", "X-Request-Id: by-alice")
    curl(server, authority, "/v1/classify", "--cert", alice.path, "--key", alice.key, "-H", "X-Request-Id: classified",
         "-H", "Content-Type: application/json", "-d", BODY.decode())  # fmt: skip
    assert server.told("classified")["client_certificate"] == "alice"
    assert server.told("classified")["client"] == "127.0.0.1"


@pytest.mark.parametrize("days", [-1, 2])
def test_a_certificate_that_expired_or_is_of_another_authority_is_refused(
    server: ServerProcess, authority: Authority, tmp_path: Path, days: int
) -> None:
    mallory = (authority if days < 0 else Authority(tmp_path / "other", "other")).sign("mallory", days)
    before = failures(server)
    ended = curl(server, authority, "/readyz", "--cert", mallory.path, "--key", mallory.key)
    assert ended.returncode != 0
    assert ended.stdout == ""
    eventually(lambda: failures(server) == before + 1)


def test_plain_http_is_closed_and_metrics_are_plain(server: ServerProcess) -> None:
    before = failures(server)
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=HAPPEN_WITHIN_S) as caller:
        caller.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with suppress(ConnectionResetError):
            assert caller.recv(100) == b""
    eventually(lambda: failures(server) == before + 1)
    url = server.log.partition("/metrics is on ")[2].partition('"')[0]
    metrics = ServerProcess(server.process, url, server.log_path)
    assert metrics.metric("bert_tls_handshake_failures_total") == failures(server)


def test_a_slow_handshake_is_cut_and_holds_up_nobody(server: ServerProcess, authority: Authority) -> None:
    before = failures(server)
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=HAPPEN_WITHIN_S) as slow:
        slow.sendall(b"\x16\x03\x01")
        with connected(server, authority) as other:
            other.sendall(REQUEST)
            assert b"200 OK" in answer(other)
        with suppress(ConnectionResetError):
            assert slow.recv(100) == b""  # within the time that a request has to arrive
    eventually(lambda: failures(server) == before + 1)


def test_many_requests_on_one_connection(server: ServerProcess, authority: Authority) -> None:
    with connected(server, authority) as caller:
        caller.sendall(REQUEST * 20)
        received = b""
        while received.count(b'"usage"') < 20:
            piece = caller.recv(65536)
            assert piece
            received += piece
    assert received.count(b"HTTP/1.1 200 OK") == 20


def test_limits_hold(server: ServerProcess, authority: Authority) -> None:
    with connected(server, authority) as caller:
        caller.sendall(b"GET /livez HTTP/1.1\r\nX: " + b"x" * 70000 + b"\r\n\r\n")
        assert b" 431 " in answer(caller)
        assert caller.recv(100) == b""
    with connected(server, authority) as caller:
        head = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n"
        caller.sendall(head + b"x" * 1000)
        reply = answer(caller)
        assert b" 413 " in reply
        assert b"connection: close" in reply
        assert caller.recv(100) == b""
    with connected(server, authority) as caller:
        caller.sendall(b"GET /livez HT")
        assert b" 408 " in answer(caller)
        assert caller.recv(100) == b""


def test_a_caller_that_ends_its_side_is_gone(server: ServerProcess, authority: Authority) -> None:
    """With TLS it cannot say more than that it has ended; its connection is closed and nothing is logged as a fault."""
    with connected(server, authority) as caller:
        caller.sendall(REQUEST)
        answer(caller)
        caller.unwrap()
    with connected(server, authority) as caller:
        caller.sendall(REQUEST)
        with suppress(OSError):
            caller.unwrap()
    assert curl(server, authority, "/readyz").returncode == 0


def failures_of_all(server: ServerProcess, authority: Authority, caller: Certificate) -> float:
    metrics = curl(server, authority, "/metrics", "--cert", caller.path, "--key", caller.key).stdout
    found = re.search(r"^bert_tls_handshake_failures_total (.*)$", metrics, re.MULTILINE)
    assert found
    return float(found[1])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_callers_must_show_a_certificate_where_that_is_required(
    shared_models: Path, certificate: Certificate, authority: Authority, workers: str
) -> None:
    alice = authority.sign("alice")
    only = "ECDHE-ECDSA-AES256-GCM-SHA384"
    more = ("--ssl-ca-certs", authority.path, "--ssl-cert-reqs", "2", "--ssl-ciphers", only, "--workers", workers)
    with serving(shared_models, *flags(certificate, *more)) as server:
        assert curl(server, authority, "/readyz").returncode != 0
        assert curl(server, authority, "/readyz", "--cert", alice.path, "--key", alice.key).returncode == 0
        # Whose alternative name is no text, so that Python cannot read it.
        odd = authority.sign("odd", alternatives="subjectAltName=DER:30:03:82:01:ff")
        before = failures_of_all(server, authority, alice)
        assert curl(server, authority, "/readyz", "--cert", odd.path, "--key", odd.key).returncode != 0
        assert failures_of_all(server, authority, alice) == before + 1
        assert "never retrieved" not in server.log
        older = ("--cert", alice.path, "--key", alice.key, "--tls-max", "1.2", "--ciphers")
        assert curl(server, authority, "/readyz", *older, only).returncode == 0
        assert curl(server, authority, "/readyz", *older, "ECDHE-ECDSA-AES128-GCM-SHA256").returncode != 0
        with connected(server, authority, alice) as idle:
            idle.sendall(REQUEST)
            assert b"200 OK" in answer(idle)
            with socket.create_connection(("127.0.0.1", port_of(server)), timeout=HAPPEN_WITHIN_S) as slow:
                slow.sendall(b"\x16\x03\x01")
                started_at = monotonic()
                assert server.stop() == 0
                assert monotonic() - started_at < 20  # of 30 for requests: neither caller is waited for


class Load:
    """Asks all the time: each thread on one connection that stays open, and on a new one for every request."""

    def __init__(self, server: ServerProcess, authority: Authority) -> None:
        self._server, self._authority = server, authority
        self._ends = threading.Event()
        self.faults: list[BaseException] = []
        self.served = 0
        self._threads = [threading.Thread(target=self._run, args=(stays,)) for stays in (True, False)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def _run(self, stays: bool) -> None:
        try:
            while not self._ends.is_set():
                with connected(self._server, self._authority) as caller:
                    while not self._ends.is_set():
                        caller.sendall(REQUEST)
                        assert b"200 OK" in answer(caller)
                        self.served += 1
                        if not stays:
                            break
        except BaseException as fault:
            self.faults.append(fault)


def serial(server: ServerProcess, authority: Authority) -> str:
    with connected(server, authority) as caller:
        shown = caller.getpeercert()
        assert shown is not None
        return str(shown["serialNumber"])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_renewed_certificate_is_shown_without_a_failed_request(
    shared_models: Path, authority: Authority, tmp_path: Path, workers: str
) -> None:
    first, second = authority.sign("first"), authority.sign("second")
    certificate = Certificate(tmp_path / "tls.crt", tmp_path / "tls.key")

    def show(one: Certificate) -> None:
        """As a Secret of Kubernetes changes, or certbot: a rename each."""
        for source, target in ((one.path, certificate.path), (one.key, certificate.key)):
            new = target.with_suffix(".new")
            new.write_bytes(source.read_bytes())
            new.replace(target)

    show(first)
    with serving(shared_models, *flags(certificate, "--workers", workers)) as server, Load(server, authority) as load:
        before = serial(server, authority)
        certificate.path.write_text("nonsense")
        eventually(lambda: server.log.count("stays in force") >= int(workers))
        assert serial(server, authority) == before
        show(second)
        eventually(lambda: len({serial(server, authority) for _ in range(10)} | {before}) == 2)
        eventually(lambda: before not in {serial(server, authority) for _ in range(20)})
        show(first)
        server.process.send_signal(1)  # SIGHUP does not wait for the next look
        eventually(lambda: {serial(server, authority) for _ in range(20)} == {before})
        served = load.served
        eventually(lambda: load.served > served + 5)
        assert not load.faults, load.faults
    assert not load.faults, load.faults


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ssl-certfile", "missing.pem"], r"BERT_SSL_CERTFILE cannot be read: missing.pem: No such file"),
        (["--ssl-certfile", "{key}"], r"BERT_SSL_CERTFILE cannot be used"),
        (["--ssl-certfile", "{certificate}"], r"BERT_SSL_CERTFILE cannot be used"),
        (["--ssl-certfile", "{certificate}", "--ssl-keyfile", "{locked}"], "BERT_SSL_KEYFILE_PASSWORD"),
        (["--ssl-certfile", "{certificate}", "--ssl-keyfile", "{key}", "--uds", "{socket}"], "a Unix socket speaks no TLS"),
        (["--ssl-keyfile", "{key}"], "there is no certificate. Set BERT_SSL_CERTFILE"),
        (["--ssl-certfile", "{certificate}", "--ssl-keyfile", "{key}", "--ssl-cert-reqs", "required"], "Set BERT_SSL_CA_CERTS"),
        (["--ssl-certfile", "{certificate}", "--ssl-keyfile", "{key}", "--ssl-ca-certs", "{key}"], "Set it to required or optional"),
        (["--ssl-certfile", "{certificate}", "--ssl-keyfile", "{key}", "--ssl-ca-certs", "{key}", "--ssl-cert-reqs", "1"], "BERT_SSL_CA_CERTS cannot be used"),
        (["--ssl-certfile", "{certificate}", "--ssl-keyfile", "{key}", "--ssl-ciphers", "none"], "BERT_SSL_CIPHERS names no cipher"),
        (["--ssl-certfile", "{pipe}"], "BERT_SSL_CERTFILE is a pipe"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used_end_the_start(
    shared_models: Path,
    certificate: Certificate,
    authority: Authority,
    tmp_path: Path,
    arguments: list[str],
    says: str,
) -> None:
    locked = authority.sign("locked", password="secret").key
    pipe, uds = tmp_path / "pipe", tmp_path / "socket"
    os.mkfifo(pipe)
    given = [
        one.format(certificate=certificate.path, key=certificate.key, locked=locked, pipe=pipe, socket=uds)
        for one in arguments
    ]
    ended = run_app("--models", str(shared_models), "--port", "0", *given)
    assert ended.returncode == 1
    assert says in ended.stderr


def test_a_key_may_have_a_password(shared_models: Path, authority: Authority) -> None:
    locked = authority.sign("locked", password="secret")
    with serving(shared_models, *flags(locked), BERT_SSL_KEYFILE_PASSWORD="secret") as server:
        assert curl(server, authority, "/readyz").returncode == 0
        assert "secret" not in server.log
