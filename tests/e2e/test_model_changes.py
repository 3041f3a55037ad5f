"""Models that are loaded, replaced and unloaded while the server runs."""

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from app.bundle.files import describe_file
from tests.conftest import BundleOf
from tests.e2e.administration import ADMIN, KEY, ONE, administer, labels, states
from tests.e2e.processes import all_ready, engine_of, until, workers
from tests.e2e.versions import deploy
from tests.support import Connection, Reply, ServerProcess, change_manifest, eventually, serving

BULK = {"inputs": [f"the cat sat on mat {i}" for i in range(40)]}
CALLERS = 6
SWAPS = 6


@pytest.fixture(params=["1", "2"])
def server(models: Path, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with serving(models, "--workers", request.param, "--threads", "1", "--admin-key", KEY) as server:
        yield server


def test_models_change_under_load_without_a_failed_or_mixed_answer(
    models: Path, versions: Path, server: ServerProcess
) -> None:
    oracle: list[dict[str, str]] = []
    for version in ("1", "2"):
        deploy(models, versions / version)
        assert administer(server, "load").status == 200
        oracle.append({json.dumps(body): labelled(server, body) for body in (ONE, BULK)})
    deploy(models, versions / "1")
    assert administer(server, "load").status == 200
    is_over = threading.Event()
    asked = threading.Semaphore(0)

    def call(number: int) -> list[tuple[str, str]]:
        connection, told = Connection(server.url), []
        body = BULK if number % 3 == 0 else ONE
        path = "/v1/embed" if number % 3 == 1 else "/v1/classify"
        while not is_over.is_set():
            reply = connection.ask("POST", path, {"inputs": "a text"} if path == "/v1/embed" else body)
            assert reply.status == 200, reply.body
            if path == "/v1/classify":
                told.append((json.dumps(body), in_order(reply)))
            asked.release()
        connection.close()
        return told

    with ThreadPoolExecutor(CALLERS) as threads:
        callers = [threads.submit(call, number) for number in range(CALLERS)]
        try:
            for i in range(SWAPS):
                for _ in range(20):
                    assert asked.acquire(timeout=20)
                new = 1 - i % 2
                deploy(models, versions / str(new + 1))
                reply = administer(server, "load")
                assert reply.status == 200, reply.body
                for _ in range(8):
                    assert labelled(server, ONE) == oracle[new][json.dumps(ONE)]
        finally:
            is_over.set()
    for caller in callers:
        for body, told in caller.result():
            assert told in (oracle[0][body], oracle[1][body])
    assert server.metric("bert_model_loads_total", model="a", outcome="loaded") == SWAPS + 2
    assert server.metric("bert_model_info", model="a") == 1
    assert server.metric("bert_rejected_total") == 0


def labelled(server: ServerProcess, body: Any) -> str:
    reply = server.post("/v1/classify", body)
    assert reply.status == 200, reply.body
    return in_order(reply)


def in_order(reply: Reply) -> str:
    """The best label of each text with its score, to the digits that no batch changes."""
    return json.dumps([[(one["label"], one["score"]) for one in text] for text in reply.json["predictions"]])


def test_a_new_model_is_loaded_and_one_is_unloaded(models: Path, versions: Path, server: ServerProcess) -> None:
    assert (
        server.told(administer(server, "load", "b").headers["x-request-id"]).items()
        >= {"status": 404, "model": None}.items()
    )
    deploy(models, versions / "2", "b")
    loaded = administer(server, "load", "b")
    assert (loaded.status, loaded.json["state"]) == (200, "ready")
    assert server.told(loaded.headers["x-request-id"])["model"] == "b"
    assert server.post("/v1/classify", ONE | {"model": "b"}).status == 200
    assert administer(server, "unload", "b").json["state"] == "unloaded"
    for _ in range(8):
        reply = server.post("/v1/classify", ONE | {"model": "b"})
        assert (reply.status, "unloaded" in reply.error) == (404, True)
        assert server.post("/v1/classify", ONE).status == 200
    assert states(server)["b"]["state"] == "unloaded"
    assert administer(server, "unload", "b").status == 404
    for name in ("a", "vectors"):
        assert administer(server, "unload", name).status == 200
    assert server.ask("GET", "/readyz").status == 200
    assert administer(server, "load").status == 200
    assert server.post("/v1/classify", ONE).status == 200


def damaged_graph(bundle: Path) -> None:
    with (bundle / "cpu-fp32.onnx").open("r+b") as stream:
        stream.seek(100)
        stream.write(b"damage")


def half_a_graph(bundle: Path) -> None:
    path = bundle / "cpu-fp32.onnx"
    os.truncate(path, path.stat().st_size // 2)


def other_tokenizer(bundle: Path) -> None:
    (bundle / "tokenizer.json").write_text("{}")


def no_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()


def other_labels(bundle: Path) -> None:
    change_manifest(bundle, labels=["x", "y", "z"])


def with_graph_of(bundle: Path, other: Path) -> None:
    """All files are whole, and of two models."""
    shutil.copy(other / "cpu-fp32.onnx", bundle)
    [variant] = json.loads((bundle / "manifest.json").read_text())["variants"]
    variant["graph"] = describe_file(bundle / "cpu-fp32.onnx").model_dump()
    change_manifest(bundle, variants=[variant])


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (damaged_graph, "cpu-fp32.onnx"),
        (other_tokenizer, "tokenizer.json"),
        (no_manifest, "manifest.json"),
        (other_labels, "golden.json"),
    ],
)
def test_a_bad_bundle_is_refused_and_the_old_one_serves_on(
    tmp_path: Path, models: Path, versions: Path, server: ServerProcess, damage: Callable[[Path], None], names: str
) -> None:
    before, expected = states(server)["a"], labelled(server, ONE)
    shutil.copytree(versions / "2", tmp_path / "bad")
    damage(tmp_path / "bad")
    deploy(models, tmp_path / "bad")
    reply = administer(server, "load")
    assert (reply.status, reply.json["error_type"]) == (409, "bad_bundle")
    assert server.told(reply.headers["x-request-id"])["model"] == "a"
    assert names in reply.error
    assert states(server)["a"] == before | {"error": reply.error}
    assert labelled(server, ONE) == expected
    deploy(models, versions / "2")
    assert administer(server, "load").json["error"] is None


def test_only_the_admin_key_opens_admin(models: Path) -> None:
    with serving(models, "--threads", "1", "--admin-key", KEY, "--api-key", "callers") as server:
        for headers in ({}, {"authorization": "Bearer callers"}, {"authorization": KEY}):
            for method, path in (("GET", "/admin/models"), ("POST", "/admin/models/a/unload")):
                reply = server.ask(method, path, headers=headers)
                assert (reply.status, "admin key" in reply.error) == (401, True)
        assert server.ask("POST", "/v1/classify", ONE, ADMIN).status == 401
        assert server.ask("GET", "/admin/models", headers=ADMIN).status == 200
        for name in ("..", ".", "%2e%2e", ".a", "%2Fetc", "a%2F..%2Fa"):
            assert administer(server, "load", name).status == 404


def test_admin_is_off_without_a_key(models: Path) -> None:
    with serving(models, "--threads", "1") as server:
        assert server.ask("GET", "/admin/models", headers=ADMIN).status == 404
        assert "/admin" not in json.dumps(server.ask("GET", "/openapi.json").json["paths"])
        assert 'api="admin"' not in server.ask("GET", "/metrics").body.decode()


def test_admin_is_described_and_counted_where_it_is_on(models: Path) -> None:
    with serving(models, "--threads", "1", "--admin-key", KEY, "--api-key", "callers") as server:
        assert server.metric("bert_requests_total", api="admin") == 0
        document = server.ask("GET", "/openapi.json").json
        described = {path: operation for path, operation in document["paths"].items() if path.startswith("/admin")}
        assert set(described) == {"/admin/models", "/admin/models/{name}/load", "/admin/models/{name}/unload"}
        assert {str(one["security"]) for operation in described.values() for one in operation.values()} == {
            "[{'admin key': []}]"
        }
        assert set(document["components"]["securitySchemes"]) == {"key", "admin key"}
        schema = document["components"]["schemas"]["ModelState"]
        for state in states(server).values():
            jsonschema.validate(state, schema)
        assert "/admin/models?" in server.ask("GET", "/admin/model").error
        assert server.metric("bert_requests_total", api="admin", status="200") == 1


def test_sighup_reads_the_folder_anew(models: Path, versions: Path, server: ServerProcess) -> None:
    [before] = labels(server)
    deploy(models, versions / "2")
    deploy(models, versions / "1", "new")
    (models / "vectors").unlink()
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "model vectors is unloaded, as its folder is gone" in server.log)
    assert labels(server) == {",".join(reversed(before.split(",")))}
    assert set(states(server)) == {"a", "new"}


def test_the_same_bundle_of_another_version_is_told_by_that_and_is_not_loaded_again(
    models: Path, versions: Path, server: ServerProcess
) -> None:
    before = states(server)["a"]
    for version in ("1", "2"):
        shutil.copytree(versions / "1", models / ".versions" / version / "a")
        deploy(models, models / ".versions" / version / "a")
        assert administer(server, "load").json == before | {"version": version}
        assert {server.ask("GET", "/v1/models/a").json["version"] for _ in range(8)} == {version}
        assert server.metric("bert_model_info", model="a") == server.metric("bert_model_info", version=version) == 1
        assert f"model a is now {before['hash']}, version {version}, the same bundle" in server.log
    assert server.metric("bert_model_loads_total", model="a", outcome="loaded") == 2


def told_of(server: ServerProcess, name: str) -> bool:
    return f"model {name} is not loaded: " in server.log


def test_a_folder_whose_manifest_is_missing_is_not_taken_for_gone(
    tmp_path: Path, models: Path, versions: Path, server: ServerProcess
) -> None:
    shutil.copytree(versions / "2", tmp_path / "copied")
    (tmp_path / "copied" / "manifest.json").unlink()
    deploy(models, tmp_path / "copied")
    deploy(models, tmp_path / "nothing", "vectors")
    deploy(models, versions / "1", "new")  # a folder without any bundle changes nothing
    server.process.send_signal(signal.SIGHUP)
    for name in ("a", "vectors"):
        eventually(partial(told_of, server, name))
        assert "manifest.json" in states(server)[name]["error"]
    assert server.post("/v1/classify", ONE | {"model": "a"}).status == 200
    assert server.post("/v1/embed", {"inputs": "a text"}).status == 200


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_bad_bundle_that_is_removed_is_forgotten(models: Path, workers: str) -> None:
    (models / "bad").mkdir()
    (models / "bad" / "manifest.json").write_text("{")
    with serving(models, "--workers", workers, "--threads", "1", "--admin-key", KEY, "--skip-bad-bundles") as server:
        assert server.metric("bert_model_load_failures", model="bad") == 1
        shutil.rmtree(models / "bad")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "model bad, which is not served, is gone" in server.log)
        assert set(states(server)) == {"a", "vectors"}
        assert {server.ask("GET", "/readyz").body for _ in range(8)} == {b'{"status":"ready"}'}
        assert server.metric("bert_model_load_failures", model="bad") == 0


def test_a_folder_whose_name_is_no_text_is_passed_over(models: Path, versions: Path, server: ServerProcess) -> None:
    (models / os.fsdecode(b"\xff")).symlink_to(versions / "2")
    deploy(models, versions / "2", "last")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "model last is now" in server.log)
    assert set(states(server)) == {"a", "last", "vectors"}
    assert server.metric("bert_model_info", model="last") == 1


def test_a_folder_of_temporary_files_that_is_cleaned_stops_no_change_and_no_front_end(
    tmp_path: Path, models: Path, versions: Path
) -> None:
    (tmp_path / "t").mkdir()
    arguments = ("--workers", "2", "--threads", "1", "--admin-key", KEY)
    with serving(models, *arguments, TMPDIR=str(tmp_path / "t")) as server:
        pids, [folder] = set(workers(server)), (tmp_path / "t").iterdir()
        shutil.rmtree(folder)
        deploy(models, versions / "2")
        assert administer(server, "load").status == 200
        assert set(workers(server)) == pids
        assert len(list((folder / "bundles").iterdir())) == 1
        shutil.rmtree(folder)
        eventually((folder / "engine.sock").exists)
        os.kill(next(pid for pid in pids if pid != engine_of(server)), signal.SIGKILL)
        until(lambda: len(workers(server)) == 3 and set(workers(server)) != pids and all_ready(server))
        assert {card["name"] for card in server.ask("GET", "/v1/models").json["models"]} == {"a", "vectors"}


def test_two_loads_at_once_are_made_one_after_the_other(models: Path, versions: Path, server: ServerProcess) -> None:
    deploy(models, versions / "2")
    with ThreadPoolExecutor(4) as threads:
        replies = [threads.submit(administer, server, "load") for _ in range(4)]
    assert {reply.result().status for reply in replies} == {200}
    assert server.metric("bert_model_loads_total", model="a", outcome="loaded") == 1


@pytest.mark.parametrize("victim", ["engine", "front end"])
def test_a_process_that_dies_is_followed_by_one_that_serves_what_was_served(
    tmp_path: Path, models: Path, versions: Path, victim: str
) -> None:
    (tmp_path / "t").mkdir()
    arguments = ("--workers", "2", "--threads", "1", "--admin-key", KEY)
    with serving(models, *arguments, TMPDIR=str(tmp_path / "t")) as server:
        assert administer(server, "unload", "vectors").status == 200
        engine = engine_of(server)
        [before] = labels(server)
        deploy(models, versions / "2")  # it is there, and is not loaded yet
        pids = set(workers(server))
        os.kill(engine if victim == "engine" else next(pid for pid in pids if pid != engine), signal.SIGKILL)
        until(lambda: len(workers(server)) == 3 and set(workers(server)) != pids and all_ready(server))
        [after] = labels(server)
        # An engine reads the folder when it starts; a front end serves what the engine has.
        assert after == (",".join(reversed(before.split(","))) if victim == "engine" else before)
        assert states(server)["vectors"]["state"] == "unloaded"
        assert len(list((tmp_path / "t").glob("*/bundles/*/*"))) == 1


@pytest.mark.parametrize("count", ["1", "2"])
def test_a_model_is_unloaded_first_if_asked_for(tmp_path: Path, models: Path, versions: Path, count: str) -> None:
    for name in ("1", "2"):
        shutil.copytree(versions / name, tmp_path / name)
    for name in ("damaged", "labels", "wrong"):
        shutil.copytree(versions / "1", tmp_path / name)
    damaged_graph(tmp_path / "damaged")
    other_labels(tmp_path / "labels")
    with_graph_of(tmp_path / "wrong", versions / "2")
    arguments = ("--workers", count, "--threads", "1", "--admin-key", KEY, "--swap", "unload-first")
    with serving(models, *arguments) as server:
        [before] = labels(server)
        deploy(models, tmp_path / "2")
        assert administer(server, "load").status == 200
        [after] = labels(server)
        assert after != before
        loaded_at = states(server)["a"]["loaded_at"]
        for name in ("damaged", "labels"):
            deploy(models, tmp_path / name)
            reply = administer(server, "load")
            assert (reply.json["error_type"], str(tmp_path / name) in reply.error) == ("bad_bundle", True)
            assert states(server)["a"]["loaded_at"] == loaded_at  # it never went
        deploy(models, tmp_path / "wrong")
        assert "golden answers" in administer(server, "load").error
        assert (labels(server), states(server)["a"]["state"]) == ({after}, "ready")
        assert states(server)["a"]["loaded_at"] > loaded_at
        shutil.rmtree(tmp_path / "2")
        reply = administer(server, "load")
        assert "golden answers" in reply.error
        assert str(tmp_path / "2") in reply.error
        failed = states(server)["a"]
        assert (failed["state"], failed["error"]) == ("failed", reply.error)
        deploy(models, tmp_path / "1")
        assert administer(server, "load").status == 200
        assert labels(server) == {before}


@pytest.mark.parametrize("swap", ["beside", "unload-first"])
def test_a_damaged_copy_of_what_is_served_is_refused(tmp_path: Path, models: Path, versions: Path, swap: str) -> None:
    with serving(models, "--threads", "1", "--admin-key", KEY, "--swap", swap) as server:
        before = states(server)["a"]
        shutil.copytree(versions / "1", tmp_path / "bad")
        half_a_graph(tmp_path / "bad")
        deploy(models, tmp_path / "bad")
        reply = administer(server, "load")
        assert (reply.json["error_type"], "cpu-fp32.onnx" in reply.error) == ("bad_bundle", True)
        assert states(server)["a"] == before | {"error": reply.error}


def resident_mib(server: ServerProcess) -> list[int]:
    """What the process that serves has in memory; of several, the engine and then each front end."""
    engine = [engine_of(server)] if workers(server) else [server.process.pid]
    told = []
    for pid in (*engine, *(pid for pid in workers(server) if pid not in engine)):
        [line] = [one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS")]
        told.append(int(line.split()[1]) >> 10)
    return told


@pytest.mark.parametrize("count", ["1", "2"])
def test_memory_after_many_changes_is_that_of_one_model(
    tmp_path: Path, shared_models: Path, models: Path, count: str
) -> None:
    """One that stayed would take tens of MB of the process with the models, which is more than the tolerance, 5%.

    A front end has no more than its tokenizer, of some MB: 8 that stayed are over the tolerance, too. So are those of bundles that
    are refused as their graphs are bad.
    """
    (tmp_path / "t").mkdir()
    demo = shared_models / "sentiment"
    shutil.copytree(demo, tmp_path / "other")
    change_manifest(tmp_path / "other", source={"checkpoint": "another", "revision": None, "sha256": "0" * 64})
    shutil.rmtree(models)
    models.mkdir()
    deploy(models, demo)
    arguments = ("--workers", count, "--threads", "1", "--admin-key", KEY)
    with serving(models, *arguments, TMPDIR=str(tmp_path / "t")) as server:
        before = resident_mib(server)
        for version in (tmp_path / "other", demo) * 4:
            deploy(models, version)
            assert administer(server, "load").status == 200
        deploy(models, tmp_path / "other")
        half_a_graph(tmp_path / "other")
        for i in range(30):
            change_manifest(tmp_path / "other", source={"checkpoint": f"{i}", "revision": None, "sha256": "0" * 64})
            assert administer(server, "load").status == 409
        assert len(list((tmp_path / "t").glob("*/bundles/*/*"))) == (0 if count == "1" else 1)
        after = resident_mib(server)
        assert all(now <= 1.05 * then for now, then in zip(after, before, strict=True)), (before, after)


@pytest.mark.parametrize("count", ["1", "2"])
def test_while_a_model_is_unloaded_first_requests_are_told_when_to_retry(
    models: Path, versions: Path, count: str
) -> None:
    arguments = ("--workers", count, "--threads", "1", "--admin-key", KEY, "--swap", "unload-first")
    is_over = threading.Event()
    asked = threading.Semaphore(0)

    with serving(models, *arguments) as server, ThreadPoolExecutor(CALLERS) as threads:

        def call() -> set[tuple[int, str | None]]:
            connection, told = Connection(server.url), set()
            while not is_over.is_set():
                reply = connection.ask("POST", "/v1/classify", ONE | {"model": "a"})
                told.add((reply.status, reply.headers.get("retry-after")))
                asked.release()
            connection.close()
            return told

        callers = [threads.submit(call) for _ in range(CALLERS)]
        try:
            for version in ("2", "1") * 2:
                for _ in range(20):
                    assert asked.acquire(timeout=20)
                deploy(models, versions / version)
                assert administer(server, "load").status == 200
                assert server.ask("GET", "/readyz").status == 200
        finally:
            is_over.set()
        assert set().union(*(caller.result() for caller in callers)) == {(200, None), (503, "2")}


def test_a_model_of_another_task_takes_the_place_of_one(
    models: Path, server: ServerProcess, bundle_of: BundleOf
) -> None:
    deploy(models, bundle_of("bert-fill-mask"))
    assert administer(server, "load").status == 200
    masked = {"inputs": "the cat [MASK] on the mat", "model": "a"}
    for _ in range(8):  # of each front end
        assert server.post("/v1/fill-mask", masked).status == 200
        reply = server.post("/v1/classify", ONE | {"model": "a"})
        assert (reply.status, "That model does fill-mask" in reply.error) == (404, True)
        card = server.ask("GET", "/v1/models/a").json  # which the page at / asks for
        assert (card["tasks"], card["mask_token"], card["labels"]) == (["fill-mask", "explain"], "[MASK]", [])
        paths = server.ask("GET", "/openapi.json").json["paths"]
        assert paths["/v1/fill-mask"]["post"]["description"].endswith("Models: a.")
        assert paths["/v1/classify"]["post"]["description"].endswith("Models: none here.")
    assert server.metric("bert_tokens_total", model="a", task="fill-mask") > 0
    assert server.metric("bert_model_info", model="a", task="fill-mask") == 1
    assert server.metric("bert_model_info", model="a") == 1


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_load_is_finished_before_a_stop(models: Path, versions: Path, workers: str) -> None:
    with (
        ThreadPoolExecutor(1) as threads,
        serving(models, "--workers", workers, "--threads", "1", "--admin-key", KEY) as server,
    ):
        connection = Connection(server.url)
        assert connection.ask("GET", "/livez").status == 200
        deploy(models, versions / "2")
        loading = threads.submit(connection.ask, "POST", "/admin/models/a/load", None, ADMIN)
        eventually(lambda: loading.done() or "loading" in {one["state"] for one in states(server).values()})
        assert server.stop() == 0
        assert loading.result().status == 200
        connection.close()


def test_an_engine_that_dies_amid_a_load_is_followed_by_one_that_serves(models: Path, versions: Path) -> None:
    with (
        ThreadPoolExecutor(1) as threads,
        serving(models, "--workers", "2", "--threads", "1", "--admin-key", KEY) as server,
    ):
        engine, pids = engine_of(server), set(workers(server))
        deploy(models, versions / "2", "b")
        loading = threads.submit(administer, server, "load", "b")
        eventually(lambda: loading.done() or states(server).get("b", {}).get("state") == "loading")
        os.kill(engine, signal.SIGKILL)
        assert loading.result().status in (200, 503)  # it may have been done by then
        until(lambda: len(workers(server)) == 3 and set(workers(server)) != pids and all_ready(server))
        for name in ("a", "b"):
            assert server.post("/v1/classify", ONE | {"model": name}).status == 200


def test_a_front_end_that_dies_before_it_is_ready_for_a_bundle_is_not_waited_for(models: Path, versions: Path) -> None:
    with (
        ThreadPoolExecutor(1) as threads,
        serving(models, "--workers", "2", "--threads", "1", "--admin-key", KEY) as server,
    ):
        [before] = labels(server)
        engine, pids = engine_of(server), set(workers(server))
        victim = next(pid for pid in pids if pid != engine)
        os.kill(victim, signal.SIGSTOP)  # it reads nothing, and has no connection
        deploy(models, versions / "2")
        loading = threads.submit(administer, server, "load")
        eventually(lambda: states(server)["a"]["state"] == "loading")
        assert labels(server) == {before}
        assert not loading.done()
        os.kill(victim, signal.SIGKILL)
        assert loading.result().status == 200
        until(lambda: len(workers(server)) == 3 and victim not in workers(server) and all_ready(server))
        assert labels(server) == {",".join(reversed(before.split(",")))}
        until(lambda: server.metric("bert_front_end_restarts_total") == 1)
