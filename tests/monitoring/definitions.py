"""What monitoring/ holds, read as data: dashboards with their queries, rules, and the metric names in a PromQL expression."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml
from prometheus_client import CollectorRegistry

from app.telemetry.metrics import Metrics
from tests.monitoring.prometheus import CONFIG, MONITORING

DASHBOARDS: Final = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
NOT_FROM_THE_APP: Final = {
    # Prometheus' own.
    "up", "ALERTS",
    # dcgm-exporter's, of its default list of counters.
    "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "DCGM_FI_DEV_POWER_USAGE", "DCGM_FI_DEV_GPU_TEMP",
}  # fmt: skip
GPU_HOSTS_ONLY: Final = {"bert_gpu_memory_used_bytes", "bert_gpu_memory_total_bytes", "bert_gpu_utilization_ratio"}

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_WORD: Final = re.compile(r"[A-Za-z_:][\w:]*")
_METRIC: Final = re.compile(r"(?:bert|process|DCGM)_\w+|up|ALERTS|\w+:\w+:\w+")


@dataclass(frozen=True)
class PanelQuery:
    dashboard: str
    panel: str
    expr: str


def dashboards() -> dict[str, dict[str, Any]]:
    """Return every dashboard as it is checked in, by the name of its file."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in DASHBOARDS}


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the panels that show something: all but the row titles."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def panel_queries() -> Iterator[PanelQuery]:
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield PanelQuery(name, panel["title"], target["expr"])


def rule_groups() -> list[dict[str, Any]]:
    files = sorted((CONFIG / "rules").glob("*.yml"))
    return [group for path in files for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]


def rules() -> list[dict[str, Any]]:
    """Return every rule: those with `record` and those with `alert`."""
    return [rule for group in rule_groups() for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def recorded() -> set[str]:
    return {rule["record"] for rule in rules() if "record" in rule}


def looking_back() -> set[str]:
    """Return the recorded series that have data only when Prometheus has seen hours of it."""
    return {rule["record"] for rule in rules() if "record" in rule and " offset " in rule["expr"]}


def metric_names(expr: str) -> set[str]:
    """Return the metrics that a PromQL expression reads."""
    return {word for word in _WORD.findall(_STRING.sub('""', expr)) if _METRIC.fullmatch(word)}


def exposed_families() -> dict[str, str]:
    """Return the type of every metric family of the app, by name."""
    lines = Metrics(CollectorRegistry()).render().decode().splitlines()
    return dict(line.split()[2:4] for line in lines if line.startswith("# TYPE "))


def exposed_names() -> set[str]:
    """Return the name of every series of the app."""
    suffixes = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
    return {name + suffix for name, kind in exposed_families().items() for suffix in suffixes.get(kind, ("",))}
