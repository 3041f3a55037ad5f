"""The real thing: the app under load, a real Prometheus that scrapes it, and every query of every panel and rule.

A GPU's series, which no CPU host has, come from a page of text in the format of the app and of dcgm-exporter.
"""

import itertools
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from tests.conftest import ModelsOf
from tests.monitoring.definitions import alerts, dashboards, looking_back, metric_names, panel_queries, panels, recorded
from tests.monitoring.prometheus import CONFIG, Prometheus, find_program, running_prometheus, wait_for
from tests.support import ROOT, ServerProcess, serving

DATA_WITHIN_S: Final = 30.0
CLIENTS: Final = 4
KEY: Final = "key-of-the-load"
PAUSE_S: Final = 0.02
GPU_PAGE: Final = b"""\
bert_gpu_memory_used_bytes{gpu="0"} 7.1e+09
bert_gpu_memory_total_bytes{gpu="0"} 1.5e+11
bert_gpu_utilization_ratio{gpu="0"} 0.8
DCGM_FI_DEV_FB_USED{gpu="0"} 6771
DCGM_FI_DEV_FB_FREE{gpu="0"} 136000
DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{gpu="0"} 0.31
DCGM_FI_DEV_POWER_USAGE{gpu="0"} 412.5
DCGM_FI_DEV_GPU_TEMP{gpu="0"} 61
"""
REQUESTS: Final[tuple[tuple[str, Any], ...]] = (
    ("classify", {"inputs": "I love this product"}),
    ("classify", {"inputs": ["This is a bad product", "word " * 600]}),
    ("classify", {"inputs": []}),
    ("classify", {"model": "unheard-of", "inputs": "x"}),
    ("fill-mask", {"inputs": "This is a [MASK] product."}),
)


class GpuHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(GPU_PAGE)))
        self.end_headers()
        self.wfile.write(GPU_PAGE)

    def do_POST(self) -> None:
        """Take traces, as a collector does."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def gpu_page() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), GpuHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def load(url: str) -> Iterator[None]:
    """Ask from a few connections, until the end of the block or of the server."""
    stop = threading.Event()

    def ask(first: int) -> None:
        with (
            httpx.Client(base_url=url, timeout=30, headers={"Authorization": f"Bearer {KEY}"}) as client,
            suppress(httpx.TransportError),
        ):
            for task, body in itertools.islice(itertools.cycle(REQUESTS), first, None):
                if stop.wait(PAUSE_S):
                    return
                client.post(f"/v1/{task}", json=body)

    threads = [threading.Thread(target=ask, args=[first]) for first in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


POD: Final = {"namespace": "bert", "pod": "bert-7d4b-x2x9"}
"""What the operator's Prometheus writes on every series of a pod; Prometheus here, where it finds the app."""


def configure(folder: Path, app: str, gpu: str) -> None:
    """Copy the configuration and the rules, with other addresses and intervals of a second; nothing else is changed."""
    text = (CONFIG / "prometheus.yml").read_text(encoding="utf-8")
    app_by_name = '    dns_sd_configs:\n      - names: ["app"]\n        type: A\n        port: 8000\n        refresh_interval: 10s\n'
    gpu_by_name = '    dns_sd_configs:\n      - names: ["dcgm-exporter"]\n        type: A\n        port: 9400\n'
    changes = {
        app_by_name: f'    static_configs:\n      - targets: ["{app}"]\n        labels: {POD}\n',
        gpu_by_name: f'    static_configs:\n      - targets: ["{gpu}"]\n',
        "_interval: 10s": "_interval: 1s",
        "scrape_timeout: 5s": "scrape_timeout: 1s",
    }
    for old, new in changes.items():
        assert old in text, f"prometheus.yml no longer has {old!r}: adapt this test"
        text = text.replace(old, new)
    (folder / "prometheus.yml").write_text(text, encoding="utf-8")
    (folder / "rules").mkdir()
    for path in (CONFIG / "rules").glob("*.yml"):
        rules = re.sub(r"^( +interval): \w+$", r"\1: 1s", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        (folder / "rules" / path.name).write_text(rules, encoding="utf-8")


@pytest.fixture(scope="module", params=["1", "2"], ids=lambda count: f"workers-{count}")
def server(
    request: pytest.FixtureRequest, models_of: ModelsOf, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """The app as one process, and as front ends and an engine, whose counts are put together for each scrape."""
    find_program("prometheus")  # else there is nobody to start it for
    models = models_of({"classify": "bert-single-label", "fill-mask": "bert-fill-mask"})
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"load {KEY}\n")
    traced = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}
    with (
        gpu_page() as collector,
        serving(
            models,
            *("--workers", request.param, "--threads", "1", "--api-keys-file", str(keys)),
            BERT_OTLP_ENDPOINT=f"http://{collector}",
            **traced,
        ) as server,
    ):
        yield server


@pytest.fixture(scope="module")
def prometheus(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, once all that it should know of the app under load is there."""
    folder = tmp_path_factory.mktemp("prometheus")
    with gpu_page() as gpu, load(server.url):
        configure(folder, server.url.removeprefix("http://"), gpu)
        with running_prometheus(folder) as prometheus:
            names = recorded() - looking_back() | {"process_start_time_seconds"}
            wait_for(
                lambda: all(prometheus.query(name) for name in names),
                DATA_WITHIN_S,
                lambda: f"no data for {sorted(name for name in names if not prometheus.query(name))}",
            )
            yield prometheus


def with_values(expr: str) -> str:
    """Put in what Grafana would for its variables, with All chosen for each."""
    values = {"$model": ".*", "$task": ".*", "$instance": ".*", "$__rate_interval": "20s", "$__range": "1m"}
    for name, value in values.items():
        expr = expr.replace(name, value)
    assert "$" not in expr
    return expr


def test_both_targets_are_scraped(prometheus: Prometheus) -> None:
    assert {dict(labels)["job"]: value for labels, value in prometheus.query("up").items()} == {"bert": 1, "dcgm": 1}


def test_every_recording_rule_has_data(prometheus: Prometheus) -> None:
    assert [name for name in sorted(recorded() - looking_back()) if not prometheus.query(name)] == []


def test_every_rule_is_evaluated_and_reads_series_that_exist(prometheus: Prometheus) -> None:
    wait_for(
        lambda: all(rule["health"] == "ok" for rule in prometheus.rules()),
        DATA_WITHIN_S,
        lambda: [(rule["name"], rule["health"], rule.get("lastError")) for rule in prometheus.rules()],
    )
    read = set().union(*(metric_names(alert["expr"]) for alert in alerts()))
    assert [name for name in sorted(read - looking_back()) if not prometheus.query(name)] == []


def test_every_panel_has_data(prometheus: Prometheus) -> None:
    queries = {(q.dashboard, q.panel, q.expr): with_values(q.expr) for q in panel_queries()}
    wait_for(
        lambda: all(prometheus.query(expr) for expr in queries.values()),
        DATA_WITHIN_S,
        lambda: [where for where, expr in queries.items() if not prometheus.query(expr)],
    )


def test_a_latency_leads_to_a_line_of_the_log(prometheus: Prometheus, server: ServerProcess) -> None:
    """From a dot of the panel, by its trace id; several processes keep none, as the documentation says."""
    (target,) = [
        target for panel in panels(dashboards()["overview"]) for target in panel["targets"] if target.get("exemplar")
    ]

    def traces() -> set[str]:
        found = prometheus.get(
            "query_exemplars", query=with_values(target["expr"]), start="0", end=str(time.time() + 60)
        )
        return {one["labels"]["trace_id"] for series in found for one in series["exemplars"]}

    if "2" in server.process.args:  # type: ignore[operator]
        assert traces() == set()
        return
    wait_for(traces, DATA_WITHIN_S, lambda: "no exemplar")
    logged = {record.get("trace_id"): record for record in server.records}
    assert {logged[trace]["message"] for trace in traces()} == {"request"}


def test_the_autoscaler_gets_a_figure_for_each_pod(prometheus: Prometheus) -> None:
    """The rule of prometheus-adapter, with what the adapter puts in for the pods of a namespace."""
    path = ROOT / "deploy/kubernetes/components/prometheus/adapter-rule.yaml"
    (rule,) = yaml.safe_load(path.read_text(encoding="utf-8"))["rules"]["custom"]
    series = prometheus.get("series", **{"match[]": rule["seriesQuery"]})
    overrides = {label: each["resource"] for label, each in rule["resources"]["overrides"].items()}
    assert overrides == {label: label for label in POD}
    assert all(POD.items() <= one.items() for one in series)
    expr = rule["metricsQuery"].replace("<<.GroupBy>>", "pod")
    expr = expr.replace("<<.LabelMatchers>>", 'namespace="{namespace}",pod=~"{pod}"'.format(**POD))
    assert "<<" not in expr

    def mean_wait_s() -> Mapping[frozenset[tuple[str, str]], float]:
        return prometheus.query(expr)

    wait_for(lambda: any(value > 0 for value in mean_wait_s().values()), DATA_WITHIN_S, mean_wait_s)
    ((labels, value),) = mean_wait_s().items()
    assert dict(labels) == {"pod": POD["pod"]}
    assert 0 < value < 1
    # Of a pod that is asked nothing it is zero, and not 0 / 0: the autoscaler would not know what to do.
    idle = expr.replace("pod=~", 'model="none", pod=~')
    assert list(prometheus.query(idle).values()) == [0]


def test_every_annotation_and_variable_is_a_valid_query(prometheus: Prometheus, server: ServerProcess) -> None:
    for dashboard in dashboards().values():
        for mark in dashboard["annotations"]["list"]:
            prometheus.query(mark["expr"])
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]).groups()  # type: ignore[union-attr]
                values = prometheus.get(f"label/{label}/values", **{"match[]": with_values(series)})
                known = {urlsplit(server.url).netloc} if label == "instance" else {"classify", "fill-mask"}
                assert known <= set(values)


def test_the_figures_are_those_of_the_load(prometheus: Prometheus) -> None:
    """Not only there, but right: each kind of request shows where it should."""

    def by(label: str, expr: str) -> Mapping[str, float]:
        return {dict(labels).get(label, ""): value for labels, value in prometheus.query(expr).items()}

    rate = by("status", "sum by (status) (rate(bert_requests_total[1m])) > 0")
    assert set(rate) == {"200", "404", "422"}
    assert by("model", 'rate(bert_requests_total{status="404"}[1m]) > 0').keys() == {"none"}
    truncated = by("model", "model_task:bert_truncated:ratio_rate1h")
    assert truncated["classify"] == pytest.approx(1 / 3, abs=0.1)
    assert truncated["fill-mask"] == 0
    by_quantile = [
        with_values(target["expr"])
        for panel in panels(dashboards()["overview"])
        if panel["title"] == "Latency by model and task"
        for target in panel["targets"]
    ]
    p50, p95, p99 = (by("model", expr) for expr in by_quantile)
    assert set(p50) == {"classify", "fill-mask"}
    assert all(p50[model] <= p95[model] <= p99[model] for model in p50)
    assert by("", "bert:ready_instances:count") == {"": 1}
    assert 0 < by("", "sum(instance:bert_device_busy:ratio_rate1m)")[""] < 1
    burning = by("model", "model_task:bert_availability:burnrate5m")
    assert burning == {"classify": 0, "fill-mask": 0, "none": 0}
    assert not {dict(labels)["alertname"] for labels in prometheus.query('ALERTS{alertstate="firing"}')}


def test_the_alert_is_on_its_way_as_soon_as_the_app_is_gone(prometheus: Prometheus, server: ServerProcess) -> None:
    def state() -> str:
        return next(rule["state"] for rule in prometheus.rules() if rule["name"] == "BertNoReadyInstance")

    assert state() == "inactive"
    server.stop()
    wait_for(lambda: state() == "pending", DATA_WITHIN_S, state)
