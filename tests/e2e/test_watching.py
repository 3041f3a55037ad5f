"""A server that watches its models folder, while a deployment changes it."""

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.fill_models import main, serve_version
from tests.conftest import BundleOf
from tests.e2e.versions import turned_round
from tests.support import Connection, ServerProcess, eventually, serving

ONE = {"inputs": "the cat sat on the mat"}
CALLERS = 4


@pytest.fixture
def models(tmp_path: Path, bundle_of: BundleOf) -> Path:
    """Version 1 of a model is served; version 2, with its labels in the other order, is there, too."""
    folder = tmp_path / "models"
    new = bundle_of(turned_round(tmp_path / "turned-round"))
    for version, bundle in (("1", bundle_of("bert-single-label")), ("2", new)):
        shutil.copytree(bundle, folder / ".versions" / version / "a")
    serve_version(folder, "a", folder / ".versions" / "1" / "a")
    return folder


@pytest.fixture(params=["1", "2"])
def server(models: Path, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with serving(models, "--workers", request.param, "--threads", "1", "--watch-models") as server:
        yield server


def labels(server: ServerProcess) -> set[str]:
    """The order of the labels, as each of many connections is told it: every front end takes some."""
    return {",".join(server.ask("GET", "/v1/models").json["models"][0]["labels"]) for _ in range(8)}


def test_a_version_and_the_way_back_go_live_under_load_without_a_failed_request(
    models: Path, server: ServerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERT_MODELS", str(models))
    first = labels(server)
    is_over = threading.Event()

    def call() -> int:
        connection, count = Connection(server.url), 0
        while not is_over.is_set():
            reply = connection.ask("POST", "/v1/classify", ONE)
            assert reply.status == 200, reply.body
            count += 1
        connection.close()
        return count

    with ThreadPoolExecutor(CALLERS) as threads:
        callers = [threads.submit(call) for _ in range(CALLERS)]
        try:
            serve_version(models, "a", models / ".versions" / "2" / "a")
            eventually(lambda: len(told := labels(server)) == 1 and told != first)
            assert main(["rollback", "a"]) == 0
            eventually(lambda: labels(server) == first)
        finally:
            is_over.set()
        assert all(caller.result() for caller in callers)


def test_a_bundle_that_is_copied_in_place_is_served_once_it_is_complete(models: Path, server: ServerProcess) -> None:
    first = labels(server)
    new = models / ".versions" / "2" / "a"
    (last,) = (path for path in new.iterdir() if path.suffix == ".onnx")
    for path in sorted(new.iterdir(), key=lambda path: path.name != "manifest.json"):
        if path != last:
            shutil.copyfile(path, models / "a" / path.name)
    eventually(lambda: "is incomplete" in server.log)
    assert labels(server) == first
    assert server.ask("POST", "/v1/classify", ONE).status == 200
    shutil.copyfile(last, models / "a" / last.name)
    eventually(lambda: len(told := labels(server)) == 1 and told != first)
    assert server.log.count("is incomplete") == 1
