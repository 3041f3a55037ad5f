"""One set of names: what the app exposes, what rules and dashboards read, and what the documentation explains."""

import re
from pathlib import Path

from tests.monitoring.definitions import (
    GPU_HOSTS_ONLY,
    NOT_FROM_THE_APP,
    alerts,
    dashboards,
    exposed_families,
    exposed_names,
    metric_names,
    panel_queries,
    recorded,
    rules,
)

OPERATIONS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


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


def test_the_documentation_names_panels_that_exist() -> None:
    titles = {query.panel for query in panel_queries()}
    named = ["Scraped", "Answers by status", "Where a request spends its time", "Tokens per busy second", "Models served",
             "Tokens per batch", "Resident memory", "CPU cores in use", "Device busy"]  # fmt: skip
    assert [name for name in named if name not in OPERATIONS] == []
    assert [name for name in named if not any(title.startswith(name) for title in titles)] == []
