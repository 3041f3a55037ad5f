"""Models that are gone or bad when others are loaded, when an engine takes the place of another, and when a server starts."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.administration import ADMIN, KEY, ONE, administer, labels, states
from tests.e2e.processes import all_ready, engine_of, until, workers
from tests.e2e.versions import deploy
from tests.support import ServerProcess, change_manifest, eventually, is_alive, run_app, serving, starting

DEFAULTS = ("--default-models", "classify=a", "--precision", "auto,a=fp32")
WAYS = ["admin", "SIGHUP", "watch"]


def lose_the_engine(server: ServerProcess) -> None:
    engine = engine_of(server)
    os.kill(engine, signal.SIGKILL)
    until(lambda: len(pids := workers(server)) == 3 and engine not in pids and all_ready(server))


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("way", ["removed", "unloaded"])
def test_other_models_are_loaded_without_a_model_that_settings_name(
    models: Path, versions: Path, workers: str, way: str
) -> None:
    with serving(models, "--workers", workers, "--threads", "1", "--admin-key", KEY, *DEFAULTS) as server:
        if way == "removed":
            (models / "a").unlink()
            server.process.send_signal(signal.SIGHUP)
            eventually(lambda: "model a is unloaded, as its folder is gone" in server.log)
        else:
            assert administer(server, "unload").status == 200
        deploy(models, versions / "2", "b")
        assert administer(server, "load", "b").status == 200
        if workers == "2":
            lose_the_engine(server)
        assert server.post("/v1/classify", ONE | {"model": "b"}).status == 200
        assert server.post("/v1/classify", ONE).status == 404
        deploy(models, versions / "1")
        assert administer(server, "load").status == 200
        assert server.post("/v1/classify", ONE).json["model"] == "a"


def half_a_graph(bundle: Path) -> None:
    path = bundle / "cpu-fp32.onnx"
    os.truncate(path, path.stat().st_size // 2)


def half_a_tokenizer(bundle: Path) -> None:
    path = bundle / "tokenizer.json"
    os.truncate(path, path.stat().st_size // 2)


def half_a_manifest(bundle: Path) -> None:
    path = bundle / "manifest.json"
    os.truncate(path, path.stat().st_size // 2)


def other_labels(bundle: Path) -> None:
    """All files are whole, and the golden answers are not of these labels, which front ends see and engines do not."""
    change_manifest(bundle, labels=["x", "y", "z"])


@pytest.mark.parametrize(
    ("damage", "way"),
    [(half_a_graph, "admin"), (half_a_tokenizer, "SIGHUP"), (half_a_manifest, "watch"), (other_labels, "admin")],
)
def test_a_successor_serves_the_others_and_a_bad_bundle_once_it_is_right(
    tmp_path: Path, models: Path, versions: Path, damage: Callable[[Path], None], way: str
) -> None:
    shutil.copytree(versions / "2", tmp_path / "copied")
    damage(tmp_path / "copied")
    watch = ("--watch-models",) if way == "watch" else ()
    with serving(models, "--workers", "2", "--threads", "1", "--admin-key", KEY, *watch) as server:
        [before] = labels(server)
        (models / "a").unlink()
        (tmp_path / "copied").rename(models / "a")
        lose_the_engine(server)
        assert server.post("/v1/embed", ONE).status == 200
        refused = server.post("/v1/classify", ONE | {"model": "a"})
        assert (refused.status, "could not be loaded" in refused.error) == (503, True)
        assert server.ask("GET", "/readyz").json == {"status": "ready", "failed_models": ["a"]}
        assert states(server)["a"]["state"] == "failed"
        assert server.metric("bert_model_load_failures", model="a") == 1

        shutil.copytree(versions / "2", models / "a", dirs_exist_ok=True)
        if way == "admin":
            assert administer(server, "load").status == 200
        elif way == "SIGHUP":
            server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "model a is now" in server.log)
        assert labels(server) == {",".join(reversed(before.split(",")))}
        assert server.ask("GET", "/readyz").json == {"status": "ready"}
        assert server.metric("bert_model_load_failures", model="a") == 0


def test_a_bundle_that_is_renamed_has_its_new_name_after_the_engine_was_lost(models: Path) -> None:
    with serving(models, "--workers", "2", "--threads", "1", "--admin-key", KEY) as server:
        (models / "a").rename(models / "b")
        lose_the_engine(server)
        for _ in range(8):
            assert server.post("/v1/classify", ONE | {"model": "b"}).status == 200
            assert server.post("/v1/classify", ONE | {"model": "a"}).status == 404
        assert set(states(server)) == {"b", "vectors"}


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("way", WAYS)
def test_a_server_waits_for_its_first_model(tmp_path: Path, versions: Path, workers: str, way: str) -> None:
    models = tmp_path / "empty"
    models.mkdir()
    operators = ("--watch-models",) if way == "watch" else ("--admin-key", KEY)
    arguments = ("--workers", workers, "--threads", "1", *operators, *DEFAULTS)
    with starting(models, *arguments, environment={}, wait=False) as server:
        eventually(lambda: is_alive(server))
        assert server.log.count("waiting for the first one") == 1
        if operators == ("--admin-key", KEY):
            eventually(lambda: server.ask("GET", "/admin/models", headers=ADMIN).status == 200)
            assert states(server) == {}
        for method, path, body in (("GET", "/readyz", None), ("POST", "/v1/classify", ONE)):
            reply = server.ask(method, path, body)
            assert (reply.status, reply.json["error_type"], "retry-after" in reply.headers) == (503, "not_ready", True)
        deploy(models, versions / "1")
        if way == "admin":
            assert administer(server, "load").status == 200
        elif way == "SIGHUP":
            server.process.send_signal(signal.SIGHUP)
        eventually(lambda: server.log.count("ready in ") == int(workers))
        for _ in range(8):
            assert server.ask("GET", "/readyz").status == 200
            assert server.post("/v1/classify", ONE).status == 200
        assert server.stop() == 0


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_server_that_waits_for_its_first_model_stops(tmp_path: Path, count: str) -> None:
    with starting(tmp_path, "--workers", count, "--watch-models", environment={}, wait=False) as server:
        eventually(lambda: is_alive(server))
        assert server.stop() == 0


def test_without_a_way_to_load_one_a_server_without_a_model_does_not_start(tmp_path: Path) -> None:
    ended = run_app("--models", str(tmp_path), BERT_PORT="0")
    assert (ended.returncode, "No bundle in" in ended.stderr) == (1, True)
