"""Bundles that change on disk while they are served with `--workers 2`, and a process that dies then."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.conftest import BundleOf
from tests.e2e.conftest import Device
from tests.e2e.processes import all_ready, engine_of, metric, until, workers
from tests.support import ROOT, ServerProcess, serving, starting

CHECKPOINT = ROOT / "tests/fixtures/checkpoints/bert-single-label"
GOOD = {"inputs": "the cat sat on the mat"}
CALLERS = 16


def turned_round(folder: Path) -> Path:
    """Write the same model with its labels, and the rows of its classifier, in the other order."""
    shutil.copytree(CHECKPOINT, folder)
    tensors = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = np.ascontiguousarray(tensors[name][::-1])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    labels = list(reversed(config["id2label"].values()))
    config["id2label"] = {str(i): label for i, label in enumerate(labels)}
    config["label2id"] = {label: i for i, label in enumerate(labels)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, bundle_of: BundleOf) -> Path:
    """Two versions of one model, which give a text the same scores by label."""
    folder = tmp_path_factory.mktemp("versions")
    (folder / "1").symlink_to(bundle_of("bert-single-label"))
    (folder / "2").symlink_to(bundle_of(turned_round(folder / "turned-round")))
    return folder


@pytest.fixture
def models(tmp_path: Path, versions: Path) -> Path:
    (tmp_path / "a").symlink_to(versions / "1")
    return tmp_path


@pytest.fixture
def server(models: Path) -> Iterator[ServerProcess]:
    with serving(models, "--workers", "2", "--threads", "1", "--batch-tokens", "64") as server:
        until(lambda: all_ready(server))
        yield server


def deploy(models: Path, version: Path) -> None:
    """As `ln -sfn` does."""
    link = models / ".a"
    link.symlink_to(version)
    link.replace(models / "a")


def scores(server: ServerProcess) -> dict[str, float] | None:
    """What a text is given, by label; None from a server that is not ready."""
    try:
        reply = server.post("/v1/classify", GOOD)
    except OSError:
        return None  # its process has ended
    if reply.status == 503:
        return None
    assert reply.status == 200, reply.body
    return {one["label"]: one["score"] for one in reply.json["predictions"][0]}


def labels(server: ServerProcess) -> list[str]:
    reply = server.ask("GET", "/v1/models")
    return [label for model in reply.json["models"] for label in model["labels"]]


@pytest.mark.parametrize("victim", ["engine", "front end"])
def test_no_answer_has_the_labels_of_another_version(
    models: Path, versions: Path, server: ServerProcess, victim: str
) -> None:
    expected, before = scores(server), labels(server)
    assert expected is not None
    engine = engine_of(server)
    front_end = next(pid for pid in workers(server) if pid != engine)
    deploy(models, versions / "2")
    os.kill(engine if victim == "engine" else front_end, signal.SIGKILL)

    def all_tell_the_new_labels() -> bool:
        # Whatever process takes the connection, and however far they are.
        told = scores(server)
        assert told is None or told == pytest.approx(expected, abs=1e-5)
        return told is not None and all(labels(server) == before[::-1] for _ in range(8)) and all_ready(server)

    until(all_tell_the_new_labels)
    for _ in range(16):
        assert scores(server) == pytest.approx(expected, abs=1e-5)
    assert "the engine has read other bundles than this front end: a replaced" in server.log
    assert "again and again" not in server.log
    # What is replaced on purpose was not lost.
    assert metric(server, "bert_engine_restarts_total") == (victim == "engine")
    assert server.stop() == 0


def test_accepted_requests_finish_before_the_engine_is_replaced(models: Path, versions: Path, device: Device) -> None:
    arguments = ("--workers", "2", "--threads", "1", "--batch-tokens", "64")
    faults = {"FAULTS": str(device.faults)}
    with (
        starting(models, *arguments, environment=faults, module="tests.e2e.faulty") as server,
        ThreadPoolExecutor(CALLERS) as threads,
    ):
        until(lambda: all_ready(server))
        engine = engine_of(server)
        victim = next(pid for pid in workers(server) if pid != engine)
        device.hold()
        waiting = [threads.submit(server.post, "/v1/classify", GOOD) for _ in range(CALLERS)]
        until(lambda: server.metric("bert_inflight_requests") == CALLERS)
        deploy(models, versions / "2")
        os.kill(victim, signal.SIGKILL)
        until(lambda: "the engine has read bundles that are no longer there" in server.log)
        device.release()
        # But for those that the victim had in hand.
        wait(waiting)
        assert {reply.result().status for reply in waiting if reply.exception() is None} <= {200}
        until(lambda: all_ready(server) and engine_of(server) != engine)
        assert 'killed"' not in server.log
        assert server.metric("bert_rejected_total") == 0


def test_a_bundle_has_its_new_name_when_the_engine_was_replaced(models: Path, server: ServerProcess) -> None:
    (models / "a").rename(models / "b")
    os.kill(engine_of(server), signal.SIGKILL)
    until(lambda: server.post("/v1/classify", GOOD | {"model": "b"}).status == 200 and all_ready(server))
    assert {server.post("/v1/classify", GOOD | {"model": "b"}).status for _ in range(16)} == {200}
    assert {server.post("/v1/classify", GOOD | {"model": "a"}).status for _ in range(16)} == {404}
    assert "b only in the engine; a only in this front end" in server.log
