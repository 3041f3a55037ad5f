"""Write the schemas of the kinds that deploy/kubernetes uses: `python tests/deploy/make_schemas.py`.

The sources are the strict JSON schema of a Kubernetes release as the package kubernetes-validate publishes it, and the
custom resources of the Prometheus operator as cloudcoil-models-prometheus-operator does: `pip install kubernetes-validate
cloudcoil-models-prometheus-operator` first. With a hundred megabytes of releases they are no dependencies of the tests.
Descriptions are left out.
"""

import json
from importlib import import_module
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

RELEASE = "1.34"
FOLDER = Path(__file__).parent / "schemas"
KINDS = (
    "io.k8s.api.apps.v1.Deployment",
    "io.k8s.api.autoscaling.v2.HorizontalPodAutoscaler",
    "io.k8s.api.batch.v1.CronJob",
    "io.k8s.api.core.v1.ConfigMap",
    "io.k8s.api.core.v1.Namespace",
    "io.k8s.api.core.v1.PersistentVolumeClaim",
    "io.k8s.api.core.v1.Service",
    "io.k8s.api.networking.v1.NetworkPolicy",
    "io.k8s.api.policy.v1.PodDisruptionBudget",
)
OPERATOR = "cloudcoil.models.prometheus_operator"
OPERATOR_KINDS = ("PodMonitor", "PrometheusRule")


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


def strict(node: Any, *, names: bool = False) -> Any:
    """Return pydantic's schema of a resource as strict as a server: no unknown key, no null for what is left out."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    if names:
        return {key: strict(value) for key, value in node.items()}
    if "anyOf" in node:
        alternatives = [strict(one) for one in node["anyOf"] if one != {"type": "null"}]
        return alternatives[0] if len(alternatives) == 1 else {"anyOf": alternatives}
    dropped = {"title", "default", "description"}
    schema = {
        key: strict(value, names=key in {"properties", "$defs"}) for key, value in node.items() if key not in dropped
    }
    return schema | {"additionalProperties": False} if node.get("properties") else schema


def operator_definitions() -> dict[str, Any]:
    """Return the definitions of the operator's kinds and all that they refer to."""
    collected: dict[str, Any] = {}
    for kind in OPERATOR_KINDS:
        schema = strict(getattr(import_module(f"{OPERATOR}.v1"), kind).model_json_schema())
        for name, definition in {**schema.pop("$defs"), kind: schema}.items():
            assert collected.setdefault(name, definition) == definition, f"two meanings of {name}"
    return collected


def write(name: str, definitions: dict[str, Any]) -> None:
    """Write a file of definitions, one a line."""
    lines = [f"{json.dumps(key)}:{json.dumps(definitions[key], separators=(',', ':'))}" for key in sorted(definitions)]
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text('{"$defs":{\n' + ",\n".join(lines) + "\n}}\n")


if __name__ == "__main__":
    source = (
        files("kubernetes_validate") / "kubernetes-json-schema" / f"v{RELEASE}.0-local-strict" / "_definitions.json"
    )
    write(f"kubernetes-{RELEASE}", collect(json.loads(source.read_text())["$defs"]))
    release = ".".join(version(OPERATOR).split(".")[:2])
    write(f"prometheus-operator-{release}", operator_definitions())
