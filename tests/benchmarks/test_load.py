"""The load generator: its arithmetic, its schedule, and what it counts, against a server whose every answer is scripted."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.generators import Generators, merged
from benchmarks.load import LOST, AnswerReader, Load, closed_loop, open_loop, poisson_schedule, quantile_ms

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\n\r\n"
CLOSING = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
REQUESTS = [f"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n{i}".encode() for i in range(3)]


@contextlib.contextmanager
def serving(answer: Callable[[bytes], bytes | None]) -> Iterator[int]:
    """Answer each request with what `answer` returns; None ends the connection, and so does what says that it closes."""
    opened: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):  # the listener was shut down
                while True:
                    connection = listener.accept()[0]
                    opened.append(connection)
                    threads.append(threading.Thread(target=speak, args=(connection,)))
                    threads[-1].start()

        def speak(connection: socket.socket) -> None:
            with connection, contextlib.suppress(ConnectionError):
                while request := connection.recv(4096):
                    said = answer(request)
                    if said is None:
                        return
                    connection.sendall(said)
                    if b"close" in said:
                        return

        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()


@pytest.mark.parametrize("answer", [OK, CLOSING, CHUNKED])
def test_an_answer_ends_where_it_ends_however_it_is_cut(answer: bytes) -> None:
    for cut in range(1, len(answer)):
        reader = AnswerReader()
        assert reader.feed(answer[:cut]) is None
        assert reader.feed(answer[cut:]) == 200
        assert reader.closes == (answer is CLOSING)
        assert reader.feed(BUSY) == 429


def test_an_answer_without_an_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="its end cannot be found"):
        AnswerReader().feed(b"HTTP/1.1 200 OK\r\n\r\n")


def test_a_closed_loop_sends_each_request_in_turn_until_all_are_answered() -> None:
    bodies: list[bytes] = []

    def answer(request: bytes) -> bytes:
        bodies.append(request[-1:])
        return OK

    with serving(answer) as port:
        load = closed_loop(port, REQUESTS, count=8, connections=1)
    assert b"".join(bodies) == b"01201201"
    assert load.request.tolist() == list(range(8))
    assert load.is_ok.all()
    assert load.duration_s == load.answered_s[-1]
    assert (np.diff(load.scheduled_s) > 0).all()  # each was due when the one before was answered
    assert (load.scheduled_s[1:] >= load.answered_s[:-1]).all()


def test_a_closed_loop_keeps_every_connection_busy() -> None:
    everyone = threading.Barrier(4, timeout=10)

    def answer(_: bytes) -> bytes:
        everyone.wait()  # passes only while four requests are open at once
        return OK

    with serving(answer) as port:
        load = closed_loop(port, REQUESTS, count=12, connections=4)
    assert sorted(load.request.tolist()) == list(range(12))


def test_refusals_are_told_from_answers() -> None:
    with serving(lambda request: BUSY if request.endswith(b"1") else OK) as port:
        load = closed_loop(port, REQUESTS, count=9, connections=2)
    assert load.is_ok.sum() == 6
    assert (load.status[load.request % 3 == 1] == 429).all()


def test_connections_that_the_server_ends_are_opened_again() -> None:
    with serving(lambda request: None if request.endswith(b"1") else CLOSING) as port:
        load = closed_loop(port, REQUESTS, count=9, connections=2)
    assert (load.status[load.request % 3 == 1] == LOST).all()
    assert load.is_ok.sum() == 6


def test_in_an_open_loop_latency_counts_from_the_scheduled_time() -> None:
    """With one connection and all due at once, each request waits for those before it."""
    due_s = np.zeros(5)
    with serving(lambda _: OK) as port:
        load = open_loop(port, REQUESTS, due_s=due_s, connections=1)
    assert load.scheduled_s.tolist() == [0.0] * 5
    assert (np.diff(load.latency_s) > 0).all()
    assert load.latency_s.tolist() == load.answered_s.tolist()


def test_an_open_loop_sends_nothing_before_it_is_due() -> None:
    due_s = np.array([0.0, 0.02, 0.04])
    with serving(lambda _: OK) as port:
        load = open_loop(port, REQUESTS, due_s=due_s, connections=3)
    assert load.request.tolist() == [0, 1, 2]
    assert (load.answered_s >= due_s).all()


def test_an_open_loop_does_not_wait_for_answers() -> None:
    everyone = threading.Barrier(3, timeout=10)

    def answer(_: bytes) -> bytes:
        everyone.wait()
        return OK

    with serving(answer) as port:
        load = open_loop(port, REQUESTS, due_s=np.array([0.0, 0.001, 0.002]), connections=3)
    assert load.is_ok.all()


def test_a_poisson_schedule_has_the_rate_and_the_spread_of_independent_callers() -> None:
    due_s = poisson_schedule(50.0, 200.0, seed=0)
    gaps_s = np.diff(due_s)
    assert len(due_s) == 10_000
    assert (gaps_s > 0).all()
    assert gaps_s.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps_s.std() == pytest.approx(1 / 50, rel=0.05)  # an exponential's spread is its mean
    assert poisson_schedule(50.0, 200.0, seed=0).tolist() == due_s.tolist()


def test_quantiles_are_latencies_that_were_measured() -> None:
    latency_s = np.array([0.004, 0.001, 0.003, 0.002])
    assert quantile_ms(latency_s, 0.5) == 2.0
    assert quantile_ms(latency_s, 0.99) == 4.0
    assert quantile_ms(latency_s[:0], 0.5) is None


def test_a_load_knows_what_was_answered_well_and_when() -> None:
    load = Load(np.array([1, 0]), np.array([200, 503]), np.array([0.1, 0.0]), np.array([0.3, 0.5]), 0.0)
    assert load.is_ok.tolist() == [True, False]
    assert load.latency_s.tolist() == pytest.approx([0.2, 0.5])
    assert load.duration_s == 0.5


def load_of(answers: int, **more: Any) -> Load:
    """Answers one after the other, 0.1 s each, all of them good."""
    answered_s = np.linspace(0.1, 0.1 * answers, answers)
    return replace(
        Load(np.arange(answers), np.full(answers, 200), answered_s - 0.1, answered_s, generator_cpu=0.5), **more
    )


def test_rates_count_good_answers_only() -> None:
    row = load_of(4, status=np.array([200, 429, 200, 429])).row([10, 20, 30])
    assert row["requests_per_s"] == pytest.approx(2 / 0.4)
    assert row["tokens_per_s"] == pytest.approx((10 + 30) / 0.4)
    assert row["failed"] == {"429": 2}
    assert row["sent"] == 4


def test_tokens_are_counted_by_the_time_of_the_answer() -> None:
    assert load_of(5).tokens([1, 2, 4], start_s=0.15, end_s=0.45) == 2 + 4 + 1
    assert load_of(5).tokens([1, 2, 4]) == 1 + 2 + 4 + 1 + 2


def test_a_p99_is_told_of_enough_answers_only() -> None:
    assert load_of(499).row()["p99_ms"] is None
    assert load_of(500).row()["p99_ms"] == pytest.approx(100)


def test_loads_of_several_processes_are_one() -> None:
    one = Load(np.array([0, 1]), np.array([200, 429]), np.array([0.0, 0.1]), np.array([0.2, 0.5]), 0.25)
    two = Load(np.array([0, 1]), np.array([200, 200]), np.array([0.0, 0.1]), np.array([0.1, 0.3]), 0.5)
    load = merged([one, two], [0, 10])
    np.testing.assert_array_equal(load.request, [10, 0, 11, 1])
    np.testing.assert_array_equal(load.status, [200, 200, 200, 429])
    np.testing.assert_allclose(load.latency_s, [0.1, 0.2, 0.2, 0.4])
    assert (load.duration_s, load.generator_cpu) == (0.5, 0.5)


def test_generators_raise_if_nobody_listens() -> None:
    with Generators(2) as generators, pytest.raises(ConnectionRefusedError):
        generators.closed(1, [b"GET / HTTP/1.1\r\n\r\n"], count=4, connections=2)


def test_generators_share_requests_and_connections() -> None:
    with serving(lambda _: OK) as port, Generators(2) as generators:
        closed = generators.closed(port, REQUESTS, count=7, connections=3)
        due_s = np.array([0.0, 0.01, 0.02])
        opened = generators.open(port, REQUESTS, due_s=due_s, connections=2)
    assert len(closed.request) == 8
    assert closed.is_ok.all()
    np.testing.assert_array_equal(np.sort(opened.scheduled_s), due_s)
