"""What a front end needs before it serves, and how it takes news of its engine."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.bundle.files import find_bundles
from app.engine.local import LocalEngine
from app.engine.messages import Serving
from app.errors import StartupError
from app.processes.front_end import FrontEnd
from app.settings import Settings
from app.telemetry.metrics import Metrics
from tests.app.loaded import loaded


@pytest.fixture(autouse=True)
def _garbage_collector_as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def front_end(models: Path, **settings: Any) -> tuple[FrontEnd, Metrics]:
    async def make() -> tuple[FrontEnd, Metrics]:
        engine = LocalEngine()
        try:
            metrics = Metrics()
            return FrontEnd(Settings(**settings), find_bundles(models), engine, metrics), metrics
        finally:
            await engine.close()

    return asyncio.run(make())


def engine_up(metrics: Metrics) -> bool:
    return b"bert_engine_up 1.0" in metrics.render()


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "cannot be read: .*No such file"), (b"", "is empty"), (b" \n", "is empty"), (b"\xff\xfe", "is not UTF-8")],
)
def test_a_key_file_without_a_key(shared_models: Path, tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StartupError, match=f"BERT_API_KEY_FILE {says}"):
        front_end(shared_models, api_key_file=path)


def test_ready_with_an_engine_and_not_without(shared_models: Path) -> None:
    front, metrics = front_end(shared_models)
    found = Serving({one.name: loaded(identity=one.identity) for one in front.bundles})
    assert (front.readiness.state, engine_up(metrics)) == ("starting", False)
    front.engine_found(found)
    assert (front.readiness.state, engine_up(metrics)) == ("ready", True)
    assert front._loaded_as("sentiment") == found.models["sentiment"]
    front.engine_lost()
    assert (front.readiness.state, engine_up(metrics)) == ("lost", False)
    assert front._loaded_as("sentiment") is None
    front.engine_found(found)
    assert (front.readiness.state, engine_up(metrics)) == ("ready", True)


def test_a_draining_front_end_does_not_become_ready_again(shared_models: Path) -> None:
    front, _ = front_end(shared_models)
    found = Serving({one.name: loaded(identity=one.identity) for one in front.bundles})
    front.readiness.is_draining = True
    front.engine_found(found)
    assert (front.readiness.state, front.readiness.engine) == ("draining", "ready")
    front.engine_lost()
    assert (front.readiness.state, front.readiness.engine) == ("draining", "lost")


def test_every_model_has_its_series_before_there_is_an_engine(shared_models: Path) -> None:
    _, metrics = front_end(shared_models)
    page = metrics.render().decode()
    for name in ("masked", "sentiment", "toxicity"):
        assert f'bert_tokens_total{{model="{name}"' in page


@pytest.mark.parametrize(("page", "status"), [(True, 200), (False, 404)])
def test_the_page_can_be_turned_off(shared_models: Path, page: bool, status: int) -> None:
    front, _ = front_end(shared_models, page=page, apis="none")
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}

    async def ask() -> None:
        await front.application(scope, receive, send)

    asyncio.run(ask())
    assert sent[0]["status"] == status
