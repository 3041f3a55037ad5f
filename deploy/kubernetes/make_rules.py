# noqa: INP001 - scripts, not a package: each is run alone
"""Write the rules of monitoring/prometheus for the Prometheus operator: `python deploy/kubernetes/make_rules.py`.

The text is taken over as it is, with its comments. It is checked in, as kustomize reads no file from outside a folder and
builds no resource of one; a test compares it with what this writes.
"""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "monitoring" / "prometheus" / "rules"
FILE: Final = Path(__file__).parent / "components" / "prometheus" / "prometheusrule.yaml"
HEAD: Final = """\
# Written by deploy/kubernetes/make_rules.py from monitoring/prometheus/rules: change those, and run it.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: bert
spec:
  groups:
"""


def resource() -> str:
    """Return the resource with the groups of all rule files."""
    text = HEAD
    for path in sorted(RULES.glob("*.yml")):
        before, found, groups = path.read_text(encoding="utf-8").partition("groups:\n")
        if not found or any(line and not line.startswith("#") for line in before.splitlines()):
            raise SystemExit(f"{path} begins with something else than comments and 'groups:'")
        text += "".join(
            f"  {line}" if line.strip() else line for line in [*before.splitlines(True), *groups.splitlines(True)]
        )
    return text


if __name__ == "__main__":
    FILE.write_text(resource(), encoding="utf-8")
