"""Connections to the server, over a real socket."""

import http.client
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from tests.oracle.answers import Oracle, Question, assert_same

CONNECTIONS: Final = 24
SEED: Final = 5


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    body: Any


class Connection:
    """One connection that stays open. The standard library's: a client for everyone costs more than these models do."""

    def __init__(self, url: str) -> None:
        self._connection: Final = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)

    def ask(self, oracle: Oracle, inputs: Any, parameters: Mapping[str, Any], task: str | None = None) -> Reply:
        """Ask the model of an oracle, for its task or another one that it does."""
        body = json.dumps({"model": oracle.name, "inputs": inputs, "parameters": dict(parameters)})
        self._connection.request("POST", f"/v1/{task or oracle.task}", body, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        return Reply(response.status, json.loads(response.read()))

    def read(self, path: str) -> str:
        """Return what is at a path."""
        self._connection.request("GET", path)
        return self._connection.getresponse().read().decode()

    def close(self) -> None:
        self._connection.close()


@contextmanager
def connect(url: str) -> Iterator[Connection]:
    """Open a connection and close it at the end."""
    connection = Connection(url)
    try:
        yield connection
    finally:
        connection.close()


Replies = Mapping[str, Sequence[tuple[Question, Reply]]]
"""What was asked of each oracle's model, and what came back."""


def ask_everything(url: str, oracles: Sequence[Oracle]) -> Replies:
    """Ask every question of the oracles, in random order from many connections at once."""
    asked = [(oracle, question) for oracle in oracles for question in oracle.questions]
    random.Random(SEED).shuffle(asked)
    answered: dict[str, list[tuple[Question, Reply]]] = {oracle.name: [] for oracle in oracles}

    def ask(first: int) -> None:
        with connect(url) as connection:
            for oracle, question in asked[first::CONNECTIONS]:
                reply = connection.ask(oracle, question.input, question.parameters)
                answered[oracle.name].append((question, reply))

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        list(threads.map(ask, range(CONNECTIONS)))
    return answered


def assert_as_stored(oracle: Oracle, replies: Replies) -> None:
    """Hold every reply to an oracle's questions to the stored answer, and see that none is missing."""
    assert len(replies[oracle.name]) == len(list(oracle.questions))
    for question, reply in replies[oracle.name]:
        asked = f"{question.input!r} with {question.parameters}"
        assert reply.status == 200, f"{asked}: {reply.body}"
        assert_same(reply.body["predictions"], [question.prediction], asked)
        assert reply.body["usage"] == {"tokens": question.tokens, "truncated": question.truncated}, asked
