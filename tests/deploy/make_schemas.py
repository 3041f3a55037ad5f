"""Write the schemas of the kinds that deploy/kubernetes uses: `python tests/deploy/make_schemas.py`.

The source is the strict JSON schema of a Kubernetes release as the package kubernetes-validate publishes it: `pip install kubernetes-validate` first. With a hundred megabytes of releases it is no dependency of the
tests. Descriptions are left out.
"""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

RELEASE = "1.34"
FILE = Path(__file__).parent / "schemas" / f"kubernetes-{RELEASE}.json"
KINDS = (
    "io.k8s.api.apps.v1.Deployment",
    "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    "io.k8s.api.core.v1.ConfigMap",
    "io.k8s.api.core.v1.Namespace",
    "io.k8s.api.core.v1.Service",
    "io.k8s.api.networking.v1.NetworkPolicy",
    "io.k8s.api.policy.v1.PodDisruptionBudget",
)


def without_prose(node: Any, *, names: bool = False) -> Any:
    """Return a schema without its descriptions; `names` says that the keys are those of properties."""
    if isinstance(node, list):
        return [without_prose(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        key: without_prose(value, names=key == "properties" and not names)
        for key, value in node.items()
        if names or not (key == "description" or key.startswith("x-"))
    }


def references(node: Any) -> set[str]:
    """Return the names of the definitions that a schema refers to."""
    if isinstance(node, list):
        return set().union(*map(references, node))
    if not isinstance(node, dict):
        return set()
    found = set().union(*map(references, node.values()))
    reference = node.get("$ref")
    return found | {reference.rsplit("/", 1)[1]} if isinstance(reference, str) else found


def collect(definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the definitions of the kinds and all that they refer to."""
    collected: dict[str, Any] = {}
    todo = set(KINDS)
    while todo:
        name = todo.pop()
        collected[name] = without_prose(definitions[name])
        todo |= references(collected[name]) - collected.keys()
    return collected


if __name__ == "__main__":
    source = (
        files("kubernetes_validate") / "kubernetes-json-schema" / f"v{RELEASE}.0-local-strict" / "_definitions.json"
    )
    collected = collect(json.loads(source.read_text())["$defs"])
    lines = [f"{json.dumps(name)}:{json.dumps(collected[name], separators=(',', ':'))}" for name in sorted(collected)]
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text('{"$defs":{\n' + ",\n".join(lines) + "\n}}\n")
