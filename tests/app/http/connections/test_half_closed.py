"""Callers that close their sending side: those that wait get their answers, those that are gone are noticed."""

from collections.abc import Iterator

import pytest

from tests.app.http.connections.test_connection import Running, running
from tests.e2e.wire import head, message, wire
from tests.support import eventually


@pytest.fixture
def one() -> Iterator[Running]:
    with running() as one:
        yield one


def test_an_answer_that_is_soon_there_is_sent(one: Running) -> None:
    with wire(one.url) as line:
        line.send(message(b"text"))
        line.close_sending_side()
        reply = line.reply()
        assert (reply.status, reply.body) == (200, b"text")
        assert line.is_closed()


def test_an_answer_that_takes_long_is_sent(one: Running) -> None:
    one.app.may_answer.clear()
    with wire(one.url) as line:
        line.send(message(b"text"))
        line.close_sending_side()
        line.wait()  # for what is sent ahead
        one.app.may_answer.set()
        reply = line.reply()
        assert (reply.status, reply.body) == (200, b"text")
        assert line.is_closed()


def test_every_pipelined_request_is_answered(one: Running) -> None:
    one.app.may_answer.clear()
    with wire(one.url) as line:
        line.send(message(b"first") + message(b"second") + message(b"third"))
        line.close_sending_side()
        eventually(lambda: one.app.scopes)
        one.app.may_answer.set()
        assert [line.reply().body for _ in range(3)] == [b"first", b"second", b"third"]
        assert line.is_closed()


def test_a_caller_that_is_gone_is_noticed_before_its_answer(one: Running) -> None:
    one.app.may_answer.clear()
    with wire(one.url) as line:
        line.send(message(b"text"))
        eventually(lambda: one.app.scopes)
    eventually(lambda: not one.connections)
    assert not one.app.may_answer.is_set()


@pytest.mark.parametrize("part", [b"", b"POST /v1/cla", head("Content-Length: 4"), head("Content-Length: 4") + b"te"])
def test_a_request_that_is_not_whole_is_dropped(one: Running, part: bytes) -> None:
    with wire(one.url) as line:
        line.send(part)
        line.close_sending_side()
        assert line.is_closed()


def test_an_idle_connection_is_closed(one: Running) -> None:
    with wire(one.url) as line:
        line.send(message(b"text"))
        assert line.reply().body == b"text"
        line.close_sending_side()
        assert line.is_closed()
