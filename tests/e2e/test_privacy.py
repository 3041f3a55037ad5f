"""docs/privacy.md, held: texts are sent by every route and in every way, and are looked for wherever one could have been left."""

import base64
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from app.bundle.files import load_bundle
from app.http.dialects import DIALECTS
from app.tasks import TASKS
from app.telemetry.logs import AccessLog
from app.telemetry.record import RequestRecord
from app.text.tokenizer import Tokenizer
from tests.conftest import BundleOf, ModelsOf
from tests.e2e.collector import Collector
from tests.e2e.conftest import Device
from tests.e2e.processes import engine_of, workers
from tests.e2e.test_tasks import CHECKPOINTS, DEFAULTS
from tests.e2e.wire import head, message, wire
from tests.support import END_WITHIN_S, HAPPEN_WITHIN_S, ROOT, Reply, ServerProcess, eventually, starting

WORD, ACCENTED = "Qvxzkjwphd", "żółwiątkoß"
TEXT = f"{WORD} went home. {ACCENTED}"
"""Both words stand for what a caller writes: whatever quotes a part of the text has the beginning or the end of it."""
KEY, ADMIN_KEY = "the key", "the other key"

IDS: dict[str, Any] = {"ids": [5, 6]}
BODIES: dict[str, tuple[str, Any]] = {
    "/": ("classify", {"inputs": TEXT}),
    "/models/{model}": ("classify", {"inputs": [TEXT]}),
    "/models/{model}/pipeline/{task}": ("embed", {"inputs": TEXT}),
    "/invocations": ("classify", {"inputs": TEXT}),
    "/v1/models/{model}:predict": ("classify", {"instances": [TEXT]}),
    "/v1/models/{model}:explain": ("classify", {"instances": [TEXT]}),
    **{
        f"/v2/models/{{model}}{version}/infer": (
            "classify",
            {"id": TEXT, "inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [TEXT]}]},
        )
        for version in ("", "/versions/{version}")
    },
    "/v2/repository/index": ("classify", {"ready": True}),
    "/v1/embeddings": ("embed", {"input": [TEXT], "user": TEXT}),
    "/v2/rerank": ("rerank", {"query": TEXT, "documents": [TEXT], "return_documents": True}),
    **{
        f"{of_one}{path}": (model, body)
        for of_one in ("", "/models/{model}")
        for path, model, body in (
            ("/embed", "embed", {"inputs": TEXT}),
            ("/embed_all", "embed", {"inputs": TEXT}),
            ("/embed_sparse", "embed", {"inputs": TEXT}),
            ("/tokenize", "embed", {"inputs": TEXT}),
            ("/decode", "embed", IDS),
            ("/predict", "classify", {"inputs": TEXT}),
            ("/rerank", "rerank", {"query": TEXT, "texts": [TEXT], "return_text": True}),
            ("/similarity", "embed", {"inputs": {"source_sentence": TEXT, "sentences": [TEXT]}}),
        )
    },
}
"""A request for each route of a dialect that takes a body, and its model. Those of tasks are the examples of `/openapi.json`."""
REFUSED = ("/embed_all", "/embed_sparse")
"""Whatever their body: no model of this server can do that."""
HEADERS = {
    name: TEXT.encode()
    for name in ("User-Agent", "Referer", "Cookie", "X-Request-Id", "X-Forwarded-For", "Forwarded", "Accept", "Baggage",
                 "Traceparent", "X-Anything")
}  # fmt: skip
"""Each with a text, on every request."""


PARAMETERS = sorted({
    name
    for handler in TASKS.values()
    for name in handler.request.model_fields["parameters"].annotation.model_fields  # type: ignore[union-attr]
})  # fmt: skip
"""Of all tasks."""


def forms(word: str) -> Iterator[bytes]:
    """Yield how a word may stand in a file or on a wire, in lower case."""
    utf8 = word.encode()
    yield from (word.encode(codec) for codec in ("utf-8", "utf-16-le", "utf-16-be", "utf-32-le"))
    yield from (
        json.dumps(word)[1:-1].encode(),
        ascii(word)[1:-1].encode(),
        quote(word).encode(),
        utf8.hex().encode(),
        repr(utf8)[2:-1].encode(),
    )
    for skipped in range(3):  # base64 of what begins anywhere: without the digits that neighbours share
        encoded = base64.b64encode(b" " * skipped + utf8)
        yield encoded[4 if skipped else 0 : len(encoded) // 4 * 4 - 4]


NEEDLES = [form.lower() for word in (WORD, ACCENTED) for form in forms(word)]

Places = Mapping[str, bytes]


def with_text(places: Places) -> list[str]:
    """Return where a text is, or a part of it, in whatever form."""
    return [place for place, content in places.items() if any(needle in content.lower() for needle in NEEDLES)]


def files_below(*folders: Path) -> Places:
    """Return the files of folders, and their names."""
    found = {}
    for folder in folders:
        for parent, _, names in os.walk(folder, followlinks=True):
            for name in names:
                path = Path(parent, name)
                with suppress(FileNotFoundError):
                    if path.is_file():
                        found[str(path)] = os.fsencode(path) + path.read_bytes()
    return found


def open_files(pids: Collection[int]) -> Places:
    """Return the files that processes have open, also those that no folder has."""
    found = {}
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it has just been closed
                if descriptor.is_file():  # of what is not, as of a socket, reading would wait
                    found[f"{descriptor} -> {descriptor.readlink()}"] = descriptor.read_bytes()
    return found


def told_by_the_system(pids: Collection[int]) -> Places:
    """Return what every program that lists processes shows of them."""
    return {
        f"/proc/{pid}/{name}": Path(f"/proc/{pid}/{name}").read_bytes()
        for pid in pids
        for name in ("cmdline", "environ", "comm")
    }


def memory_has_text(pid: int) -> bool:
    """Whether the memory of a process has a text, in UTF-8."""
    with Path(f"/proc/{pid}/mem").open("rb") as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end, rights = re.match(r"(\w+)-(\w+) (\S+)", line).groups()  # type: ignore[union-attr]
            if rights.startswith("rw"):
                memory.seek(int(start, 16))
                with suppress(OSError):
                    if WORD.encode() in memory.read(int(end, 16) - int(start, 16)):
                        return True
    return False


@dataclass
class World:
    """A server that is asked, and all that it could leave a text in."""

    server: ServerProcess
    device: Device
    engine: int | None
    """Its process, if it has one of its own."""
    token: int
    """One that the classifier reads in the text."""
    texts_are_in_memory: Mapping[int, bool] = field(default_factory=dict)
    replies: list[tuple[str, Reply]] = field(default_factory=list)

    @property
    def pids(self) -> list[int]:
        return [self.server.process.pid, *workers(self.server)]

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        with_headers: Any = {"Authorization": f"Bearer {KEY}"} | HEADERS | headers
        reply = self.server.ask(method, f"{path}?{quote(TEXT)}", body, with_headers)
        self.replies.append((f"{method} {path}", reply))
        return reply

    def errors(self) -> Places:
        return {
            f"{number}: {asked}, {reply.status}": reply.body + repr(reply.headers).encode()
            for number, (asked, reply) in enumerate(self.replies)
            if reply.status >= 400
        }


def requests_of(description: Any) -> Iterator[tuple[str, str, str, Any]]:
    """Yield each route with its method, a model and a good body, if it takes one."""
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            if path.startswith("/admin"):
                continue
            examples = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples")
            if examples:
                for name, example in examples.items():
                    yield method.upper(), path, name, with_texts(example["value"])
            elif method == "post":
                yield "POST", path, *BODIES[path]
            else:
                yield method.upper(), path, "classify", None


def with_texts(document: Any) -> Any:
    """Return an example with a text around each of its own, but for the name of the model."""
    if isinstance(document, dict):
        return {key: value if key == "model" else with_texts(value) for key, value in document.items()}
    if isinstance(document, list):
        return [with_texts(one) for one in document]
    return f"{WORD} {document} {ACCENTED}" if isinstance(document, str) else document


def bad_bodies(good: Any) -> Iterator[tuple[Any, dict[str, str]]]:
    """Yield bodies that are wrong, each in another way, with their headers."""
    encoded = json.dumps(good, ensure_ascii=False).encode()
    yield TEXT.encode(), {}
    yield encoded[:-1], {}
    yield encoded[:-1] + b',"' + WORD.encode() + rb'\ud800": 1}', {}
    yield [TEXT], {}
    yield good | {TEXT: TEXT, f"{WORD} too": 1}, {}
    yield good | {"model": TEXT}, {}
    yield good | {"parameters": {TEXT: TEXT}}, {}
    yield good | {"parameters": dict.fromkeys(PARAMETERS, TEXT)}, {}
    yield {key: {TEXT: [TEXT, 5]} for key in good}, {}
    yield {key: [5, {"text": TEXT, "text_pair": 5}, TEXT] for key in good}, {}
    yield dict.fromkeys(good, f"{TEXT}\0"), {}
    yield encoded, {"Content-Encoding": "gzip"}
    yield encoded, {"Content-Encoding": WORD}
    yield encoded, {"Authorization": f"Bearer {WORD}"}
    yield encoded.ljust(70_000) + b"x", {}  # read in a thread


def by_hand() -> Iterator[bytes]:
    """Yield what no client sends."""
    body = json.dumps({"model": "classify", "inputs": TEXT}).encode()
    yield TEXT.encode() + b"\r\n\r\n"
    yield head().replace(b"POST", WORD.encode())
    yield head(path=f"/{WORD} {WORD}")
    yield head(f"Content-Length: {WORD}") + body
    yield head(WORD)
    yield head(*[f"X-{i}: {WORD * 100}" for i in range(100)])
    yield head("Transfer-Encoding: chunked") + WORD.encode() + b"\r\n" + body
    yield message(body, "Content-Length: 1")
    yield head(f"Content-Length: {len(body) - 5}", f"Authorization: Bearer {KEY}") + body
    yield head("Upgrade: " + WORD, "Connection: upgrade")


def ask_everything(world: World) -> None:
    for method, path, model, body in requests_of(world.server.ask("GET", "/openapi.json").json):
        filled = (
            re.sub(r"\{(model|name)\}", model, path).replace("{version}", "1").replace("{task}", "feature-extraction")
        )
        assert world.ask(method, filled, body).status == 200 or path.endswith(REFUSED), path
        world.ask(method, re.sub(r"\{\w+\}", quote(TEXT), path), body)
        world.ask("PATCH", filled, TEXT.encode())
        if isinstance(body, dict):
            for bad, headers in bad_bodies(body):
                world.ask(method, filled, bad, **headers)
    for path in (f"/{quote(TEXT)}", f"/v1/{quote(TEXT)}", f"/v1/models/{quote(TEXT)}", "/metrics", "/docs", "/livez"):
        world.ask("GET", path)
    for path in ("load", "unload", quote(TEXT)):
        for key in (KEY, ADMIN_KEY):
            world.ask("POST", f"/admin/models/{quote(TEXT)}/{path}", TEXT.encode(), Authorization=f"Bearer {key}")
    for data in by_hand():
        with wire(world.server.url) as line:
            line.send(data)
            line.close_sending_side()
            world.replies.append((repr(data[:20]), line.reply()))
    long = {"model": "classify", "inputs": TEXT * 100, "parameters": {"truncation": False}}
    assert world.ask("POST", "/v1/classify", long).status == 422
    assert world.ask("POST", "/v1/classify", b" " * (1 << 23)).status == 413


def ask_what_fails(world: World) -> None:
    """Ask while this service has a fault, or the device has, and leave before the answer."""
    good = {"model": "classify", "inputs": TEXT}
    world.device.quote(WORD)
    for body in (good, good | {"inputs": [TEXT] * 300}):  # on the event loop, and in a thread
        assert world.ask("POST", "/v1/classify", body).status == 500
    assert world.ask("POST", "/predict", {"inputs": TEXT}).status == 500
    world.device.cure()
    world.device.poison(world.token)
    assert world.ask("POST", "/v1/classify", good).status == 500
    world.device.cure()
    world.device.hold()
    gone = world.server.log.count('"status": 499')
    with wire(world.server.url) as line:
        line.send(message(json.dumps(good).encode(), f"Authorization: Bearer {KEY}"))
        eventually(lambda: world.server.metric("bert_inflight_requests") == 1)
        world.texts_are_in_memory = {pid: memory_has_text(pid) for pid in world.pids}
    with wire(world.server.url) as line:  # amid the body
        line.send(head("Content-Length: 1000", f"Authorization: Bearer {KEY}") + json.dumps(good).encode())
    eventually(lambda: world.server.log.count('"status": 499') == gone + 2)
    world.device.release()


def lose_the_engine(world: World) -> None:
    """Ask, and have the engine end before the answer."""
    world.device.hold()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(world.ask, "POST", "/v1/classify", {"model": "classify", "inputs": TEXT})
        eventually(lambda: world.server.metric("bert_inflight_requests") == 1)
        if world.engine is None:
            world.device.lose()
        else:
            os.kill(world.engine, signal.SIGKILL)
        world.device.release()
        assert asked.result().status == 503
    if world.engine is None:
        assert world.server.process.wait(HAPPEN_WITHIN_S) == 70
    else:
        assert world.server.stop() == 0


@dataclass(frozen=True)
class Left:
    """What a server has left when all was asked, by kind of place."""

    replies: list[tuple[str, Reply]]
    records: list[dict[str, Any]]
    log: Places
    errors: Places
    metrics: Places
    collected: Places
    files: Places
    cache: Places
    open_files: Places
    processes: Places
    engine: int | None
    memory: Mapping[int, bool]


@pytest.fixture(scope="module", params=["1", "2"], ids=["alone", "workers"])
def left(request: pytest.FixtureRequest, models_of: ModelsOf, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """Of a server that has all on, and tells as much as it can."""
    models, own, faults = models_of(CHECKPOINTS), tmp_path_factory.mktemp("own"), tmp_path_factory.mktemp("faults")
    folders = {name: own / name for name in ("tmp", "cache", "home", "cwd")}
    for folder in folders.values():
        folder.mkdir()
    device, collector = Device(faults), Collector()
    environment = {
        "FAULTS": str(faults),
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(folders["tmp"]),
        "HOME": str(folders["home"]),
        "BERT_TUNING_CACHE": "true",
        "BERT_TUNING_CACHE_DIR": str(folders["cache"]),
        "BERT_LOG_LEVEL": "debug",
        "BERT_API_KEY": KEY,
        "BERT_ADMIN_KEY": ADMIN_KEY,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    arguments = ("--threads", "1", "--workers", request.param, "--http-compression", *DEFAULTS)
    try:
        with starting(
            models, *arguments, environment=environment, module="tests.e2e.faulty", cwd=folders["cwd"]
        ) as server:
            [encoded] = Tokenizer(load_bundle(models / "classify")).encode([TEXT])
            engine = engine_of(server) if request.param == "2" else None
            world = World(server, device, engine, int(encoded.input_ids[1]))
            ask_everything(world)
            ask_what_fails(world)
            opened, shown = open_files(world.pids), told_by_the_system(world.pids)
            exposed = {
                accepted: server.ask("GET", "/metrics", headers={"Accept": accepted}).body
                for accepted in ("text/plain", "application/openmetrics-text; version=1.0.0")
            }
            during = files_below(own, models, Path("/dev/shm"))
            lose_the_engine(world)
            records, log = server.records, server.log_path.read_bytes()
    finally:
        device.release()
        collector.close()
    return Left(
        replies=world.replies,
        records=records,
        log={"log": log},
        errors=world.errors(),
        metrics=exposed,
        collected={
            f"{i}: {one.path}": one.body + repr(one.headers).encode() for i, one in enumerate(collector.received)
        },
        files={**during, **files_below(own, models, Path("/dev/shm"))},
        cache=files_below(folders["cache"]),
        open_files=opened,
        processes=shown,
        engine=world.engine,
        memory=world.texts_are_in_memory,
    )


def test_every_route_was_asked_well_and_badly(left: Left) -> None:
    """Else the other tests would find nothing in what nobody has done."""
    answered = {record["api"] for record in left.records if record.get("status") == 200 and "api" in record}
    assert answered >= {"native", *DIALECTS}
    assert {record["task"] for record in left.records if record.get("status") == 200 and "task" in record} >= {*TASKS}
    statuses = {reply.status for _, reply in left.replies}
    assert statuses >= {200, 400, 401, 404, 405, 413, 415, 422, 431, 500, 503}
    assert {record.get("status") for record in left.records} >= statuses - {400, 431} | {499}


def test_the_log_has_no_text_at_any_level_whatever_fails(left: Left) -> None:
    assert {record["level"] for record in left.records} >= {"info", "warning", "error"}
    assert [record for record in left.records if "exception" in record]
    assert with_text(left.log) == []


def test_an_error_repeats_no_text(left: Left) -> None:
    assert left.errors
    assert with_text(left.errors) == []


def test_metrics_have_no_text(left: Left) -> None:
    assert all(b"bert_requests_total" in content for content in left.metrics.values())
    assert with_text(left.metrics) == []


def test_a_collector_gets_no_text(left: Left) -> None:
    assert {place.partition(": ")[2] for place in left.collected} == {"/v1/metrics", "/v1/traces"}
    assert with_text(left.collected) == []


def test_no_file_has_a_text(left: Left) -> None:
    assert with_text(left.files) == []


def test_what_is_kept_for_the_next_start_has_no_text(left: Left) -> None:
    assert left.cache
    assert with_text(left.cache) == []


def test_no_file_that_a_process_has_open_has_a_text(left: Left) -> None:
    assert left.open_files
    assert with_text(left.open_files) == []


def test_what_lists_processes_shows_no_text(left: Left) -> None:
    assert with_text(left.processes) == []


def test_an_engine_of_its_own_has_no_text_in_memory(left: Left) -> None:
    assert any(left.memory.values())  # of what reads HTTP: it is found where it is
    assert left.engine is None or not left.memory[left.engine]


@dataclass(frozen=True)
class Prediction:
    """`python -m app predict` in folders of its own, on a device that the test holds."""

    folder: Path
    model: Path
    faults: Path

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.faulty", "predict", "--model", str(self.model), *arguments],
            cwd=self.folder,
            env=os.environ | {"FAULTS": str(self.faults), "PYTHONPATH": str(ROOT), "TMPDIR": str(self.folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )


@pytest.fixture
def prediction(tmp_path: Path, bundle_of: BundleOf, device: Device) -> Prediction:
    (tmp_path / "own").mkdir()
    return Prediction(tmp_path / "own", bundle_of("bert-single-label"), device.faults)


def names_with_text(folder: Path) -> set[str]:
    return {Path(place).name for place in with_text(files_below(folder))}


def test_a_prediction_writes_texts_where_it_is_told_to(prediction: Prediction, device: Device) -> None:
    device.quote(WORD)
    rows = f'text\n{TEXT}\n""\n{TEXT},{TEXT}\n'.encode()
    process = prediction.start("--input", "-", "--input-format", "csv", "--output", "out.jsonl", "--log-level", "debug")
    told, _ = process.communicate(rows, END_WITHIN_S)
    assert process.returncode == 3, told
    assert b"failed alone" in told
    assert with_text({"stderr": told}) == []
    assert names_with_text(prediction.folder) == {"out.bad.jsonl"}
    device.cure()
    process = prediction.start("--input", "-", "--input-format", "lines", "--output", "other.csv", "--keep")
    told, _ = process.communicate(TEXT.encode(), END_WITHIN_S)
    assert process.returncode == 0, told
    assert names_with_text(prediction.folder) == {"out.bad.jsonl"}  # without its text, a prediction has none


def test_a_prediction_that_is_killed_leaves_texts_in_its_output_alone(prediction: Prediction) -> None:
    process = prediction.start("--input", "-", "--input-format", "lines", "--output", "out.jsonl")
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write(f"{TEXT}\n".encode() * 1000)
        process.stdin.flush()
        progress = prediction.folder / "out.jsonl.progress"
        try:
            eventually(lambda: progress.exists() and json.loads(progress.read_text())["position"]["rows"])
        finally:
            process.kill()
            process.wait()
        assert with_text({"stderr": process.stdout.read()}) == []
    assert names_with_text(prediction.folder) == {"out.jsonl.part"}


@pytest.mark.parametrize("count", ["1", "2"])
def test_no_process_may_leave_a_core(shared_models: Path, tmp_path: Path, count: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))  # as under many container engines
    try:
        arguments = ("--threads", "1", "--workers", count)
        environment = {"PYTHONPATH": str(ROOT)}
        with starting(shared_models / "sentiment", *arguments, environment=environment, cwd=tmp_path) as server:
            for pid in (server.process.pid, *workers(server)):
                assert resource.prlimit(pid, resource.RLIMIT_CORE)[0] == 1
            os.kill(engine_of(server) if count == "2" else server.process.pid, signal.SIGABRT)
            if count == "2":
                eventually(lambda: "killed by SIGABRT" in server.log)
            else:
                _, status = os.waitpid(server.process.pid, 0)
                server.process.returncode = os.waitstatus_to_exitcode(status)
                assert os.WTERMSIG(status) == signal.SIGABRT
                assert not os.WCOREDUMP(status)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_the_page_lists_each_field_of_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    AccessLog("json").write(
        RequestRecord(
            "a", "native", "classify", "::1", "CN=a", "name", "trace", True, "model", bundle="hash", error_type="late"
        )
    )
    told = json.loads(capsys.readouterr().err)
    [sentence] = [line for line in (ROOT / "docs" / "privacy.md").read_text().splitlines() if "one line" in line]
    assert set(re.findall(r"`(\w+)`", sentence.partition(" | ")[0])) == {*told, "process", "pid"}


def as_a_file(folder: Path) -> Places:
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_text(f"before {TEXT} after")
    return files_below(folder)


def as_the_name_of_a_file(folder: Path) -> Places:
    (folder / TEXT).touch()
    return files_below(folder)


def as_memory_that_has_no_name(_: Path) -> Places:
    with os.fdopen(os.memfd_create("test"), "wb", buffering=0) as memory:
        memory.write(TEXT.encode())
        return open_files([os.getpid()])


def as_a_file_that_is_gone(folder: Path) -> Places:
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        file.write(TEXT.encode())
        return open_files([os.getpid()])


def as_an_argument(_: Path) -> Places:
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", TEXT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline()  # the system has its arguments by now
        return told_by_the_system([process.pid])


@pytest.mark.parametrize(
    "leave",
    [as_a_file, as_the_name_of_a_file, as_memory_that_has_no_name, as_a_file_that_is_gone, as_an_argument],
)
def test_the_search_finds_a_text_in_each_place(tmp_path: Path, leave: Callable[[Path], Places]) -> None:
    assert len(with_text(leave(tmp_path))) == 1


WRITTEN: dict[str, Callable[[str], str | bytes]] = {
    "UTF-8": str.encode,
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, big end first": lambda text: text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "JSON": json.dumps,
    "as Python writes texts": repr,
    "as Python writes texts in ASCII": ascii,
    "as Python writes bytes": lambda text: repr(text.encode()),
    "percents": quote,
    "hexadecimal": lambda text: text.encode().hex(),
    "base64": lambda text: base64.b64encode(text.encode()),
    "base64 of what begins one byte before": lambda text: base64.b64encode(b"." + text.encode()),
    "base64 of what begins two bytes before": lambda text: base64.b64encode(b".." + text.encode()),
}


@pytest.mark.parametrize("word", [WORD, ACCENTED], ids=["a word", "with accents"])
@pytest.mark.parametrize("name", WRITTEN)
def test_the_search_finds_a_text_in_each_form(word: str, name: str) -> None:
    written = WRITTEN[name](f"before {word} after")
    content = written if isinstance(written, bytes) else written.encode()
    assert with_text({"here": content})
    assert not with_text({"here": content[: len(content) // 2]})
