"""Send load over HTTP/1.1 and time the answers.

One thread, one epoll and raw sockets that stay open, so that the generator takes little of the cores that it shares with
what it measures: `Load.generator_cpu` says how much. Two ways of sending:

- closed loop: so many connections, each sends its next request when it has its answer. Every system is given the same
  requests, so that the time to answer all of them compares the same work.
- open loop: requests are sent when a schedule says, whether or not earlier ones were answered, and latency counts from the
  scheduled time. A server that stalls is charged for every request that was due meanwhile.
"""

import gc
import select
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.report import Row

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

HOST: Final = "127.0.0.1"
STALLED_AFTER_S: Final = 120.0
LOST: Final = 0
"""The status of a request whose connection ended without an answer."""
ENOUGH: Final = 500
"""The least number of answers for a p99: of 90 it would be the slowest one."""


class Stalled(Exception):
    """No answer came for a long time."""


@dataclass(frozen=True, slots=True)
class Load:
    """What became of each request, in the order of the answers. Times count from the first moment of the load."""

    request: IntArray  # int64[answers], its place in the order of sending
    status: IntArray  # int64[answers]
    scheduled_s: FloatArray  # float64[answers]
    answered_s: FloatArray  # float64[answers]
    generator_cpu: float
    """CPU seconds of the generator per second."""

    @property
    def latency_s(self) -> FloatArray:
        return self.answered_s - self.scheduled_s

    @property
    def is_ok(self) -> npt.NDArray[np.bool_]:
        return np.equal(self.status, 200)

    @property
    def duration_s(self) -> float:
        return float(self.answered_s[-1])

    def row(self, tokens: Sequence[int] = ()) -> Row:
        """Return the figures of the load; rates, if it is told how many tokens each of the requests has."""
        statuses, counts = np.unique(self.status[~self.is_ok], return_counts=True)
        latency_s = self.latency_s[self.is_ok]
        row: Row = {
            "requests_per_s": latency_s.size / self.duration_s,
            "tokens_per_s": self.tokens(tokens) / self.duration_s,
            "p50_ms": quantile_ms(latency_s, 0.5),
            "p99_ms": quantile_ms(latency_s, 0.99) if latency_s.size >= ENOUGH else None,
            "sent": len(self.request),
            "failed": dict(zip(map(str, statuses.tolist()), counts.tolist(), strict=True)),
            "generator_cpu": self.generator_cpu,
        }
        return row if tokens else {name: value for name, value in row.items() if not name.endswith("_per_s")}

    def tokens(self, of: Sequence[int], start_s: float = 0.0, end_s: float = np.inf) -> float:
        """Return the tokens of all requests that were answered well in a span, told those of each request that is sent."""
        good = self.is_ok & (self.answered_s >= start_s) & (self.answered_s < end_s)
        return float(sum(of[i % len(of)] for i in self.request[good].tolist())) if of else 0.0


def quantile_ms(latency_s: FloatArray, share: float) -> float | None:
    """Return the latency that `share` of the requests did not exceed: one that was measured, not a blend of two.

    None if there is none.
    """
    if not latency_s.size:
        return None
    return float(np.quantile(latency_s, share, method="inverted_cdf")) * 1e3


def poisson_schedule(rate_per_s: float, duration_s: float, seed: int) -> FloatArray:
    """Return when requests of independent callers are due."""
    count = round(rate_per_s * duration_s)
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate_per_s, count))


class AnswerReader:
    """Finds the end of each HTTP/1.1 answer in the bytes of a connection that carries one at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._status = 0
        self._end: int | None = None  # None until the head was read, -1 for a chunked body
        self.closes = False

    def feed(self, data: bytes) -> int | None:
        """Return the status when the answer is whole."""
        buffer = self._buffer = self._buffer + data
        if self._end is None:
            body = buffer.find(b"\r\n\r\n") + 4
            if body < 4:
                return None
            self._read_head(buffer[:body].lower(), body)
        is_whole = buffer.endswith(b"0\r\n\r\n") if self._end == -1 else len(buffer) >= (self._end or 0)
        if not is_whole:
            return None
        self._buffer, self._end = b"", None
        return self._status

    def _read_head(self, head: bytes, body: int) -> None:
        self._status = int(head[9:12])
        self.closes = b"\r\nconnection: close" in head
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            self._end = body + int(head[at + 17 : head.index(b"\r\n", at + 2)])
        elif b"\r\ntransfer-encoding: chunked" in head:
            self._end = -1
        else:
            raise ValueError("an answer with neither Content-Length nor chunks: its end cannot be found")


def closed_loop(port: int, requests: Sequence[bytes], *, count: int, connections: int) -> Load:
    """Send `count` requests, those given over and over again; each connection waits for its answers.

    Raises:
        Stalled: the server went silent.
    """
    return _Loop(port, requests, connections, np.zeros(count), is_open=False).run()


def open_loop(port: int, requests: Sequence[bytes], *, due_s: FloatArray, connections: int) -> Load:
    """Send a request at each due time; one for which no connection is free waits, and its latency counts that.

    Raises:
        Stalled: the server went silent.
    """
    return _Loop(port, requests, connections, due_s, is_open=True).run()


class _Connection:
    __slots__ = ("reader", "request", "scheduled_s", "socket")

    def __init__(self, port: int) -> None:
        # It blocks, but is read only when there is something to read.
        self.socket = socket.create_connection((HOST, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = AnswerReader()
        self.request = -1
        self.scheduled_s = 0.0


class _Loop:
    """The loads are one: in a closed loop every request is due at once, and what it waits for a connection is not counted."""

    def __init__(
        self, port: int, requests: Sequence[bytes], connections: int, due_s: FloatArray, *, is_open: bool
    ) -> None:
        self._port = port
        self._requests = requests
        self._most = connections
        self._due_s = due_s.tolist()
        self._is_open = is_open
        self._epoll = select.epoll()
        self._opened: dict[int, _Connection] = {}
        self._free: list[_Connection] = []
        self._sent = 0
        self._answers: list[tuple[int, int, float, float]] = []

    def run(self) -> Load:
        gc.collect()
        gc.disable()
        cpu_at, self._started_at = time.process_time(), time.perf_counter()
        try:
            while len(self._answers) < len(self._due_s):
                self._send_due()
                self._read_answers()
            cpu = (time.process_time() - cpu_at) / self._now_s()
        finally:
            gc.enable()
            for connection in self._opened.values():
                connection.socket.close()
            self._epoll.close()
        request, status, scheduled_s, answered_s = map(np.array, zip(*self._answers, strict=True))
        return Load(request, status, scheduled_s, answered_s, cpu)

    def _now_s(self) -> float:
        return time.perf_counter() - self._started_at

    def _can_send(self) -> bool:
        return self._sent < len(self._due_s) and (bool(self._free) or len(self._opened) < self._most)

    def _send_due(self) -> None:
        while self._can_send() and self._due_s[self._sent] <= (now_s := self._now_s()):
            connection = self._free.pop() if self._free else self._connect()
            connection.request = self._sent
            connection.scheduled_s = self._due_s[self._sent] if self._is_open else now_s
            connection.socket.sendall(self._requests[self._sent % len(self._requests)])
            self._sent += 1

    def _connect(self) -> _Connection:
        connection = _Connection(self._port)
        self._opened[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket.fileno(), select.EPOLLIN)
        return connection

    def _read_answers(self) -> None:
        """Wait until an answer comes or a request is due, and take the answers."""
        is_due_first = self._can_send()
        wait_s = max(0.0, self._due_s[self._sent] - self._now_s()) if is_due_first else STALLED_AFTER_S
        # epoll's own timeout is in whole milliseconds, but an epoll can be waited for like a socket.
        readable, _, _ = select.select([self._epoll.fileno()], (), (), wait_s)
        if not readable and not is_due_first:
            missing = self._sent - len(self._answers)
            raise Stalled(f"no answer for {STALLED_AFTER_S:.0f} s; {missing} are missing")
        for descriptor, _ in self._epoll.poll(0):
            self._read(descriptor)

    def _read(self, descriptor: int) -> None:
        connection = self._opened[descriptor]
        try:
            data = connection.socket.recv(1 << 16)
        except ConnectionError:
            data = b""
        status = connection.reader.feed(data) if data else LOST
        if status is None:
            return
        if connection.request >= 0:
            self._answers.append((connection.request, status, connection.scheduled_s, self._now_s()))
            connection.request = -1
        elif connection in self._free:
            self._free.remove(connection)  # it was closed while idle
        if status == LOST or connection.reader.closes:
            self._epoll.unregister(descriptor)
            connection.socket.close()
            del self._opened[descriptor]
        else:
            self._free.append(connection)
