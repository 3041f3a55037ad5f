"""One set of names: what the app exposes, what rules and dashboards read, and what the documentation explains."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from monitoring.grafana.overview import SLOW_REQUESTS
from tests.monitoring.definitions import (
    GPU_HOSTS_ONLY,
    NOT_FROM_THE_APP,
    alerts,
    dashboards,
    exposed_families,
    exposed_names,
    metric_names,
    panel_queries,
    panels,
    recorded,
    rule_groups,
    rules,
)

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def test_names_are_found_in_an_expression() -> None:
    expr = 'sum by (model) (rate(bert_requests_total{task="bert_x", le!="up"}[5m])) / on () a:b_c:rate5m or up == 1'
    assert metric_names(expr) == {"bert_requests_total", "a:b_c:rate5m", "up"}


def test_rules_read_what_is_there() -> None:
    known = exposed_names() | GPU_HOSTS_ONLY | NOT_FROM_THE_APP | recorded()
    read = {rule.get("record", rule.get("alert")): metric_names(rule["expr"]) for rule in rules()}
    assert {name: names - known for name, names in read.items() if names - known} == {}


def test_dashboards_read_what_is_there() -> None:
    known = exposed_names() | GPU_HOSTS_ONLY | NOT_FROM_THE_APP | recorded()
    queries = [(query.panel, query.expr) for query in panel_queries()]
    for dashboard in dashboards().values():
        queries += [(mark["name"], mark["expr"]) for mark in dashboard["annotations"]["list"]]
        variables = [variable for variable in dashboard["templating"]["list"] if variable["type"] == "query"]
        queries += [(variable["name"], variable["query"]) for variable in variables]
    assert {(where, name) for where, expr in queries for name in metric_names(expr) - known} == set()
    assert [where for where, expr in queries if not metric_names(expr)] == []


def test_documentation_and_deployment_name_what_is_there() -> None:
    """Every word that looks like a metric: exposed by the app, recorded or grouped by the rules, or the adapter's."""
    adapter = yaml.safe_load((ROOT / "deploy/kubernetes/components/prometheus/adapter-rule.yaml").read_text())
    declared = {rule["name"]["as"] for rule in adapter["rules"]["custom"]} | {group["name"] for group in rule_groups()}
    known = exposed_names() | exposed_families().keys() | GPU_HOSTS_ONLY | recorded() | declared
    files = [path for folder in ("docs", "deploy") for path in (ROOT / folder).rglob("*") if path.is_file()]
    texts = {
        path.relative_to(ROOT): path.read_text(encoding="utf-8")
        for path in [*files, *ROOT.glob("*.md"), *ROOT.glob("docker-compose*.yml")]
        if "__pycache__" not in path.parts and path.suffix != ".png"
    }
    found = {
        (str(path), name) for path, text in texts.items() for name in re.findall(r"(?<![\w:])[\w:]*\bbert_[\w:]+", text)
    }
    assert len(found) > 50
    assert sorted((path, name) for path, name in found if name.rstrip(":") not in known) == []


def test_every_recorded_series_is_used() -> None:
    read = set().union(
        *(metric_names(expr) for expr in [q.expr for q in panel_queries()] + [r["expr"] for r in rules()])
    )
    assert recorded() - read == set()


def test_every_metric_of_the_app_is_explained() -> None:
    table = re.findall(r"^\| `(bert_\w+)` \|", OPERATIONS, flags=re.MULTILINE)
    assert len(table) == len(set(table))
    assert set(table) == {name for name in exposed_families() if name.startswith("bert_")} | GPU_HOSTS_ONLY


def test_every_alert_has_a_paragraph() -> None:
    sections = re.findall(r"^### (\w+)\n\n(.+?)(?=^#|\Z)", OPERATIONS, flags=re.MULTILINE | re.DOTALL)
    assert {name for name, _ in sections} == {alert["alert"] for alert in alerts()}
    assert [name for name, text in sections if len(text.split()) < 40] == []
    for alert in alerts():
        assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{alert['alert'].lower()}"


def test_the_way_to_the_log_is_one_and_passes_over_what_is_not_json() -> None:
    told = re.findall(r"jq -cR '(.+)'$", OPERATIONS, flags=re.MULTILINE)
    (latency,) = [panel for panel in panels(dashboards()["overview"]) if panel["title"] == "Latency by model and task"]
    assert SLOW_REQUESTS in latency["description"]
    assert f"    {SLOW_REQUESTS}\n" in OPERATIONS
    log = [
        '{"duration_ms": 501, "trace_id": "ab"}',
        "Traceback",
        '{"duration_ms": 499}',
        "7",
        '"x"',
        "{",
        '{"event": "x"}',
    ]
    for program in (each.replace("4bf92f3577b34da6a3ce929d0e0e4736", "ab") for each in told):
        done = subprocess.run(
            [shutil.which("jq") or pytest.skip("jq is not installed"), "-cR", program],
            input="\n".join(log), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), program
        assert done.stdout == '{"duration_ms":501,"trace_id":"ab"}\n', program
    assert len(told) == 2


def test_the_documentation_names_panels_that_exist() -> None:
    titles = {query.panel for query in panel_queries()}
    named = ["Scraped", "Answers by status", "Where a request spends its time", "Tokens per busy second", "Models served",
             "Tokens per batch", "Resident memory", "CPU cores in use", "Device busy"]  # fmt: skip
    assert [name for name in named if name not in OPERATIONS] == []
    assert [name for name in named if not any(title.startswith(name) for title in titles)] == []
