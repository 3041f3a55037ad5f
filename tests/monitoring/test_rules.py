"""promtool's word on the configuration, and its unit tests of the alerts."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.monitoring.definitions import alerts, dashboards, rule_groups
from tests.monitoring.prometheus import CONFIG, find_program

CASES = sorted((CONFIG / "tests").glob("*.yml"))


def promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        [find_program("promtool"), *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_configuration_is_valid() -> None:
    assert "SUCCESS" in promtool("check", "config", CONFIG / "prometheus.yml")


def test_the_rules_are_valid() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", *sorted((CONFIG / "rules").glob("*.yml")))


def test_rules_over_days_are_not_evaluated_every_few_seconds() -> None:
    dear = {
        group["name"]: group.get("interval") for group in rule_groups() if re.search(r"\[\d+d\]", str(group["rules"]))
    }
    assert dear == {"bert_objectives_days": "1m"}


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_alerts_fire_and_stay_silent(cases: Path) -> None:
    promtool("test", "rules", cases)


def test_a_model_that_is_new_or_another_is_marked_for_a_minute_and_those_of_a_start_are_not(tmp_path: Path) -> None:
    marks = dashboards()["overview"]["annotations"]["list"]
    (changes,) = [mark["expr"] for mark in marks if "bert_model_loads_total" in mark["expr"]]
    loads = 'bert_model_loads_total{{job="bert", instance="{}", model="{}", outcome="{}"}}'
    series = {
        'up{job="bert", instance="a"}': "1x20",
        'up{job="bert", instance="begun"}': "_x9 1x11",
        loads.format("a", "changed", "loaded"): "0x9 1x11",
        loads.format("a", "new", "loaded"): "_x9 1x11",
        loads.format("a", "new", "unloaded"): "_x9 0x11",
        loads.format("a", "bad", "refused"): "_x9 1x11",
        loads.format("begun", "seen-late", "loaded"): "_x9 3x11",
    }
    expected = {"2m": [], "165s": ["changed loaded", "new loaded"], "5m": []}
    cases = {
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": [
                    {
                        "expr": f"count by (alertname) ({changes})",
                        "eval_time": time,
                        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names],
                    }
                    for time, names in expected.items()
                ],
            }
        ],
    }
    file = tmp_path / "cases.yml"
    file.write_text(yaml.safe_dump(cases))
    promtool("test", "rules", file)


def test_every_alert_has_a_case_that_fires_and_one_that_is_silent() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in CASES)
    names = {alert["alert"] for alert in alerts()}
    assert set(re.findall(r"alertname: (\w+), exp_alerts: \[\]", text)) == names
    assert set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n +- exp_labels", text)) == names


def test_every_alert_says_what_is_wrong_and_how_urgent_it_is() -> None:
    for alert in alerts():
        assert alert["labels"]["severity"] in ("page", "ticket"), alert["alert"]
        assert {"summary", "description", "runbook_url"} <= set(alert["annotations"]), alert["alert"]
