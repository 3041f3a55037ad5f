"""Replicas behind Ray Serve answer as the plain server does, share the work, follow the load and end cleanly."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.ray.support import Cluster, ray_serving
from tests.support import ServerProcess, serving

SETTINGS: Final = {"BERT_MAX_BODY_BYTES": "200000", "BERT_MAX_QUEUE_S": "600", "BERT_REQUEST_TIMEOUT_S": "600"}
CONNECTIONS: Final = 16
WITHIN_S: Final = 60.0

CLASSIFY: Final = [
    {"model": "distilbert-two-labels", "inputs": f"Reading {number} was {'not ' * (number % 9)}what we had hoped for."}
    for number in range(150)
]
FILL_MASK: Final = [
    {"model": "bert-fill-mask", "inputs": f"{'Well, ' * (number % 5)}the {number} people [MASK] home."}
    for number in range(50)
]
ASKED: Final = [("/v1/classify", body) for body in CLASSIFY] + [("/v1/fill-mask", body) for body in FILL_MASK]


@pytest.fixture(scope="module")
def plain(models: Path) -> Iterator[ServerProcess]:
    with serving(models, "--threads", "1", **SETTINGS) as server:
        yield server


@pytest.fixture(scope="module", params=[False, True], ids=["proxy", "haproxy"])
def cluster(models: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    with ray_serving(models, settings=SETTINGS, haproxy=request.param, min_replicas=2, max_replicas=2) as cluster:
        yield cluster
        assert "ray::ServeRepli" in cluster.processes.values()
        assert cluster.stop() == 0, cluster.log_path.read_text()
        assert cluster.processes == {}


def ask_all(url: str, asked: Sequence[tuple[str, Any]]) -> list[httpx.Response]:
    """Post everything from many connections; return the answers in order."""
    with httpx.Client(base_url=url, timeout=WITHIN_S) as client, ThreadPoolExecutor(CONNECTIONS) as threads:
        return list(threads.map(lambda one: client.post(one[0], json=one[1]), asked))


def samples(url: str, name: str) -> dict[str, float]:
    """Return the sum of a metric's series, by replica."""
    page = httpx.get(f"{url}/metrics", timeout=WITHIN_S)
    assert page.status_code == 200
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page.text):
        for sample in family.samples:
            if sample.name == name:
                found[sample.labels["instance"]] = found.get(sample.labels["instance"], 0) + sample.value
    return found


def wait_for(url: str, name: str, expected: Any) -> None:
    """Wait until the values of a metric, in any order, are those expected."""
    deadline = time.monotonic() + WITHIN_S
    while sorted((seen := samples(url, name)).values()) != expected:
        assert time.monotonic() < deadline, f"{name} is {seen}, not {expected}"
        time.sleep(0.05)


def wait_until_both_are_asked(cluster: Cluster) -> None:
    """Post until each of two replicas has answered: the proxy may hear of the second one after Ray says that it is ready."""
    deadline = time.monotonic() + WITHIN_S
    start = samples(cluster.url, "bert_requests_total")
    while True:
        ask_all(cluster.url, ASKED[:CONNECTIONS])
        seen = samples(cluster.url, "bert_requests_total")
        if len(seen) == 2 and all(seen[replica] > start.get(replica, 0) for replica in seen):
            return
        assert time.monotonic() < deadline, f"only one replica is asked: {seen}, {start} before"


def test_the_answers_are_those_of_the_plain_server_and_both_replicas_gave_some(
    plain: ServerProcess, cluster: Cluster
) -> None:
    wait_until_both_are_asked(cluster)
    before = samples(cluster.url, "bert_requests_total")
    answers = ask_all(cluster.url, ASKED)
    after = samples(cluster.url, "bert_requests_total")

    assert {answer.status_code for answer in answers} == {200}
    assert [answer.json() for answer in answers] == [answer.json() for answer in ask_all(plain.url, ASKED)]
    served = [after[replica] - before[replica] for replica in after]
    assert len(served) == 2
    assert min(served) > 0
    assert sum(served) == len(ASKED)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/classify", b"{"),
        ("POST", "/v1/classify", b'{"inputs": []}'),
        ("POST", "/v1/classify", b'{"model": "none", "inputs": "text"}'),
        ("POST", "/v1/fill-mask", b'{"inputs": "no mask"}'),
        ("POST", "/v1/classify", b" " * 300_000),
        ("GET", "/v1/classify", b""),
        ("GET", "/v1/nothing", b""),
    ],
)
def test_errors_are_those_of_the_plain_server(
    plain: ServerProcess, cluster: Cluster, method: str, path: str, body: bytes
) -> None:
    expected, got = (
        httpx.request(method, url + path, content=body, headers={"X-Request-Id": "mine"})
        for url in (plain.url, cluster.url)
    )
    assert expected.is_error
    assert (got.status_code, got.json()) == (expected.status_code, expected.json())
    for name in ("content-type", "allow"):
        assert got.headers.get(name) == expected.headers.get(name)


def test_an_answer_has_one_request_id(cluster: Cluster) -> None:
    given = httpx.post(f"{cluster.url}/v1/classify", json=CLASSIFY[0], headers={"X-Request-Id": "mine"})
    assert given.headers.get_list("x-request-id") == ["mine"]
    made = httpx.post(f"{cluster.url}/v1/classify", content=b"{")
    assert made.headers.get_list("x-request-id") == [made.json()["request_id"]]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/v1/models", "/openapi.json"])
def test_everything_else_is_there(plain: ServerProcess, cluster: Cluster, path: str) -> None:
    expected, got = httpx.get(plain.url + path), httpx.get(cluster.url + path)
    assert (got.status_code, got.json()) == (expected.status_code, expected.json())


def test_metrics_are_those_of_the_plain_server_for_each_replica(plain: ServerProcess, cluster: Cluster) -> None:
    pages = [httpx.get(f"{url}/metrics") for url in (plain.url, cluster.url)]
    expected, got = (
        {family.name: family.type for family in text_string_to_metric_families(page.text)} for page in pages
    )
    assert got == expected
    assert pages[1].headers["content-type"] == pages[0].headers["content-type"]
    assert pages[1].text.count("# TYPE bert_requests_total ") == 1
    assert list(samples(cluster.url, "bert_engine_up").values()) == [1, 1]


def test_replicas_follow_the_load_and_answer_what_they_have_at_the_end(models: Path) -> None:
    options: dict[str, Any] = {"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 1, "upscale_delay_s": 0}
    clients = 4
    with ThreadPoolExecutor(clients) as threads, ray_serving(models, settings=SETTINGS, **options) as cluster:
        assert len(samples(cluster.url, "bert_engine_up")) == 1

        def ask_until_refused() -> int:
            with httpx.Client(base_url=cluster.url, timeout=WITHIN_S) as client:
                while (answer := client.post("/v1/classify", json=CLASSIFY[0])).status_code == 200:
                    pass
            return answer.status_code

        load = [threads.submit(ask_until_refused) for _ in range(clients)]
        wait_for(cluster.url, "bert_engine_up", [1, 1])
        assert cluster.stop() == 0, cluster.log_path.read_text()
        # Ray's proxy has no such application any more; a request that a replica left unanswered would be a 500.
        assert {one.result(0) for one in load} <= {404, 503}
        assert cluster.processes == {}
