"""The dashboards as files: what the script makes, valid, in place, and explained."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.grafana.generate import generate
from tests.monitoring.definitions import DASHBOARDS, dashboards, panels
from tests.monitoring.prometheus import CONFIG, MONITORING
from tests.monitoring.schema import problems

PROVISIONING = MONITORING / "grafana" / "provisioning"
EACH = pytest.mark.parametrize("dashboard", dashboards().values(), ids=dashboards().keys())
COLUMNS = 24


def test_what_is_checked_in_is_what_the_script_writes(tmp_path: Path) -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in generate(tmp_path)}
    assert written.keys() == {path.name for path in DASHBOARDS}
    stale = [path.name for path in DASHBOARDS if path.read_text(encoding="utf-8") != written[path.name]]
    assert stale == [], "run python -m monitoring.grafana.generate"


@EACH
def test_a_dashboard_follows_the_schema(dashboard: dict[str, Any]) -> None:
    assert problems(dashboard) == []


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda board: board.update(tittle="x"), "dashboard.tittle is unknown"),
        (lambda board: board.update(schemaVersion="41"), "dashboard.schema_version is '41', not <class 'int'>"),
        (lambda board: board.update(graphTooltip=7), "dashboard.graph_tooltip is 7, not <enum 'DashboardCursorSync'>"),
        (
            lambda board: board["panels"][0]["options"].update(colour="x"),
            "dashboard.panels[0].options.colour is unknown",
        ),
        (
            lambda board: board["panels"][0]["options"].update(colorMode="pink"),
            "dashboard.panels[0].options.color_mode is 'pink', not <enum 'BigValueColorMode'>",
        ),
        (
            lambda board: board["panels"][0]["targets"][0].update(expr=1),
            "dashboard.panels[0].targets[0].expr is 1, not <class 'str'>",
        ),
    ],
)
def test_what_does_not_follow_the_schema_is_found(change: Any, found: str) -> None:
    board = dashboards()["overview"]
    change(board)
    assert problems(board) == [found]


@EACH
def test_panels_fit_the_grid_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= COLUMNS, panel["title"]
        for cell in (
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ):
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]
    height = 1 + max(y for _, y in taken)
    assert len(taken) == COLUMNS * height, "there are holes"


@EACH
def test_ids_are_unique(dashboard: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels(dashboard):
        refs = [target["refId"] for target in panel["targets"]]
        assert refs
        assert len(refs) == len(set(refs)), panel["title"]


@EACH
def test_every_panel_says_what_it_shows(dashboard: dict[str, Any]) -> None:
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(titles) == len(set(titles))
    for panel in panels(dashboard):
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["interval"] == "10s", panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        if panel["type"] in ("stat", "timeseries"):
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        if panel["type"] == "timeseries":
            assert panel["options"]["legend"]["showLegend"], panel["title"]
        for override in panel.get("fieldConfig", {}).get("overrides", []):
            # Without the slashes Grafana would compare the whole name.
            assert re.fullmatch("/.+/", override["matcher"]["options"]), panel["title"]


@EACH
def test_the_lines_of_a_panel_are_of_one_window(dashboard: dict[str, Any]) -> None:
    """Of two windows, p99 may lie below p95."""
    for panel in panels(dashboard):
        assert (
            len({window for target in panel["targets"] for window in re.findall(r"\[(.+?)\]", target["expr"])}) <= 1
        ), panel["title"]


@EACH
def test_names_that_several_lines_of_a_model_need_have_room(dashboard: dict[str, Any]) -> None:
    for panel in panels(dashboard):
        of_a_model = [target for target in panel["targets"] if "{{model}}" in target["legendFormat"]]
        if panel["type"] == "timeseries" and len(of_a_model) > 1:
            assert len(of_a_model) <= 3, panel["title"]
            assert panel["gridPos"]["w"] >= COLUMNS // 2, panel["title"]
            assert panel["options"]["legend"]["placement"] == "right", panel["title"]


@EACH
def test_panels_follow_the_chosen_instance(dashboard: dict[str, Any]) -> None:
    """All but those of what is of the whole service: objectives, ready instances, shares over an hour, and other exporters."""
    whole = ("burnrate", "bert:ready_instances", "ALERTS", "bert_truncated:ratio", "gpu", "DCGM")
    for panel in panels(dashboard):
        for target in panel["targets"]:
            if not any(name in target["expr"] for name in whole):
                assert 'instance=~"$instance"' in target["expr"], (panel["title"], target["expr"])


@EACH
def test_the_variables_are_those_of_the_links(dashboard: dict[str, Any]) -> None:
    variables = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert variables == ["datasource", "model", "task", "instance"]
    used = set(re.findall(r"\$\{?(\w+)", str(dashboard)))
    assert used - {"__rate_interval", "__range", "__all", "__url_time_range"} == set(variables)


def test_links_lead_to_dashboards() -> None:
    boards = dashboards().values()
    uids = {board["uid"] for board in boards}
    targets = [link["url"] for board in boards for panel in panels(board) for link in panel.get("links", [])]
    assert targets
    assert {re.fullmatch(r"/d/([\w-]+)\?.*", url)[1] for url in targets} <= uids  # type: ignore[index]
    for board in boards:
        assert [link["tags"] for link in board["links"]] == [["bert"]]
        assert board["tags"] == ["bert"]


def test_grafana_is_given_the_dashboards_and_their_data() -> None:
    provider = yaml.safe_load((PROVISIONING / "dashboards" / "bert.yml").read_text(encoding="utf-8"))["providers"][0]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    source = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))
    settings = yaml.safe_load((CONFIG / "prometheus.yml").read_text(encoding="utf-8"))
    assert source["datasources"][0]["jsonData"]["timeInterval"] == settings["global"]["scrape_interval"]
