"""A server for real clients. They are no part of the development environment: `tests/clients/run.sh` installs them.

Nothing of `app` is imported here: what the clients need must not meet what the server needs.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from tests.support import CHECKPOINTS, ROOT, ServerProcess, starting

PYTHON: Final = ROOT / ".venv" / "bin" / "python"
DEFAULTS: Final = "classify=bert-single-label,embed=bert-embed"
KEY: Final = "s3cret-key"
TOLERANCE: Final = 2e-5
"""Sums in fp32, in another order than the reference's: see tests/oracle/answers.py."""
ON_THE_PAGE: Final = {"sentiment": "bert-single-label", "minilm": "bert-embed", "ranker": "roberta-rerank"}
"""The models that docs/clients.md asks, and those that are asked here instead."""

models = os.environ.get("BERT_CLIENT_MODELS")
"""The folder that `run.sh` exports to; without it there is nothing to run."""
collect_ignore_glob = [] if models else ["test_*.py"]


@pytest.fixture(scope="session", params=[1, 2], ids=["1-worker", "2-workers"])
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """A server of every model, which asks for no key."""
    assert models is not None
    arguments = ("--threads", "1", "--workers", str(request.param), "--default-models", DEFAULTS)
    with starting(Path(models), *arguments, environment={}, python=PYTHON) as server:
        yield server
        assert server.stop() == 0, server.log


@pytest.fixture(scope="session")
def locked() -> Iterator[ServerProcess]:
    """A server that asks for `KEY`."""
    assert models is not None
    arguments = ("--threads", "1", "--default-models", DEFAULTS)
    with starting(Path(models), *arguments, environment={"BERT_API_KEY": KEY}, python=PYTHON) as server:
        yield server
        assert server.stop() == 0, server.log


def code_of_page(imported: str, server: ServerProcess) -> str:
    """Return the code of docs/clients.md that imports a library, as it asks this server and its models."""
    page = (ROOT / "docs" / "clients.md").read_text()
    found = re.findall(r"^```(?:python|js)$(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    [code] = [code for code in found if imported in code]
    for name, served in ON_THE_PAGE.items():
        code = re.sub(rf'(?<=[/"]){name}(?=[/"])', served, code)
    return code.replace("localhost:8000", urlsplit(server.url).netloc)


def answers(name: str) -> Any:
    """Return the answers of the references that are stored for a model."""
    demo = CHECKPOINTS.parent / "demo" / f"{name.removeprefix('demo-')}.json"
    return json.loads((demo if name.startswith("demo-") else CHECKPOINTS / name / "answers.json").read_text())


def stored(name: str, **parameters: Any) -> list[tuple[Any, Any]]:
    """Return the inputs that are stored for a model, each with the reference's prediction for these parameters."""
    return [
        (case["input"], answer["prediction"])
        for case in answers(name)["cases"]
        for answer in case["answers"]
        if answer["parameters"] == parameters
    ]
