"""Bundles of every oracle, one server that serves them all, and what it answers when everything is asked at once.

The server is a process of its own, one for the session.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ModelsOf
from tests.oracle.answers import oracles
from tests.oracle.client import Replies, ask_everything
from tests.support import ServerProcess, serving


@pytest.fixture(scope="session")
def models(models_of: ModelsOf) -> Path:
    """A folder with a bundle of every oracle, by its name."""
    return models_of({oracle.name: oracle.name for oracle in oracles()})


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[ServerProcess]:
    """A server of all the bundles."""
    # One thread a model, as nearly twenty of them share a few cores. However slow those are, nothing may be refused.
    patience = ("--max-queue-s", "600", "--request-timeout-s", "600")
    with serving(models, "--threads", "1", "--no-access-log", *patience) as server:
        yield server
        assert server.stop() == 0, server.log


@pytest.fixture(scope="session")
def replies(server: ServerProcess) -> Replies:
    """What the server answers to every question, in company of all others."""
    return ask_everything(server.url, oracles())
