"""Bundles of every oracle, one server that serves them all, and what it answers when everything is asked at once.

Each is made once for the session: exports in this process, the server in one of its own.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from model_export.package import ExportOptions, export
from tests.oracle.answers import Question, oracles
from tests.oracle.client import Reply, connect
from tests.support import ServerProcess, serving

CONNECTIONS: Final = 24
SEED: Final = 5


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle of every oracle, by its name."""
    folder = tmp_path_factory.mktemp("models")
    for oracle in oracles():
        options = ExportOptions(str(oracle.checkpoint), folder / oracle.name, task=oracle.task, variants=["cpu-fp32"])
        export(options, lambda _: None)
    return folder


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[ServerProcess]:
    """A server of all the bundles."""
    # One thread a model, as nearly twenty of them share a few cores. However slow those are, nothing may be refused.
    patience = ("--max-queue-s", "600", "--request-timeout-s", "600")
    with serving(models, "--threads", "1", "--no-access-log", *patience) as server:
        yield server
        assert server.stop() == 0, server.log


@pytest.fixture(scope="session")
def replies(server: ServerProcess) -> Mapping[str, Sequence[tuple[Question, Reply]]]:
    """For each oracle, what the server answers to its questions, all of all oracles asked in random order from many connections."""
    asked = [(oracle, question) for oracle in oracles() for question in oracle.questions]
    random.Random(SEED).shuffle(asked)
    answered: dict[str, list[tuple[Question, Reply]]] = {oracle.name: [] for oracle in oracles()}

    def ask(first: int) -> None:
        with connect(server.url) as connection:
            for oracle, question in asked[first::CONNECTIONS]:
                reply = connection.ask(oracle, question.input, question.parameters)
                answered[oracle.name].append((question, reply))

    with ThreadPoolExecutor(CONNECTIONS) as threads:
        list(threads.map(ask, range(CONNECTIONS)))
    return answered
