"""The Kubernetes manifests: valid, confined, and in agreement with each other and with the service."""

import json
import os
import re
import runpy
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from fastapi.routing import APIRoute
from prometheus_client import CollectorRegistry

from app.http.health import make_health_router, make_metrics_router
from app.http.readiness import Readiness
from app.settings import Settings
from app.telemetry.metrics import Metrics
from tests.monitoring.definitions import exposed_families, exposed_names, metric_names, rules

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
SCHEMAS = {
    name: json.loads((Path(__file__).parent / "schemas" / f"{name}.json").read_text())
    for name in ("kubernetes-1.34", "prometheus-operator-0.80")
}
DASHBOARDS = ROOT / "monitoring" / "grafana" / "dashboards"
KUSTOMIZATIONS = sorted(path.parent for path in KUBERNETES.rglob("kustomization.yaml"))
OVERLAYS = ("cpu", "gpu")
DEPLOY = (ROOT / "docs" / "deploy.md").read_text()
LABELS = {"app.kubernetes.io/name": "bert"}
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")

Resource = dict[str, Any]


def read(path: Path) -> Resource:
    document: Resource = yaml.safe_load(path.read_text())
    return document


def resources() -> list[Path]:
    """Return the files that are resources as they are, neither patches nor values of a chart."""
    return [
        folder / name
        for folder in KUSTOMIZATIONS
        for name in read(folder / "kustomization.yaml").get("resources", ())
        if name.endswith(".yaml")
    ]


def resource(kind: str) -> Resource:
    (found,) = [document for document in map(read, resources()) if document["kind"] == kind]
    return found


def problems(document: Resource) -> list[str]:
    """Return what the published schema has against a resource."""
    group, _, version = document["apiVersion"].rpartition("/")
    if group == "monitoring.coreos.com":
        schema = {**SCHEMAS["prometheus-operator-0.80"], "$ref": f"#/$defs/{document['kind']}"}
    else:
        name = f"io.k8s.api.{group.split('.')[0] or 'core'}.{version}.{document['kind']}"
        schema = {**SCHEMAS["kubernetes-1.34"], "$ref": f"#/$defs/{name}"}
    return [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(document)
    ]


def rendered(overlay: str, monitored_in: Path | None = None, component: str = "prometheus") -> list[Resource]:
    """Return an overlay's resources; in a copy of it with a component if there is a folder for that."""
    folder = KUBERNETES / "overlays" / overlay
    if monitored_in is not None:
        kustomization = read(folder / "kustomization.yaml")
        components = [f"../../components/{component}", *kustomization.get("components", ())]
        moved = {"resources": kustomization["resources"], "components": components}
        kustomization |= {key: [os.path.relpath(folder / one, monitored_in) for one in of] for key, of in moved.items()}
        (monitored_in / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        folder = monitored_in
    output = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True).stdout
    return list(yaml.safe_load_all(output))


def containers(deployment: Resource) -> dict[str, Resource]:
    spec = deployment["spec"]["template"]["spec"]
    return {container["name"]: container for container in [*spec.get("initContainers", ()), *spec["containers"]]}


def test_every_file_is_used() -> None:
    # Values of a chart, for a person to take; and a script.
    used = {KUBERNETES / "components" / "prometheus" / "adapter-rule.yaml", KUBERNETES / "make_rules.py"}
    for folder in KUSTOMIZATIONS:
        kustomization = read(folder / "kustomization.yaml")
        patches = [patch["path"] for patch in kustomization.get("patches", ())]
        named = [*kustomization.get("resources", ()), *kustomization.get("components", ()), *patches]
        used |= {folder / "kustomization.yaml", *((folder / name).resolve() for name in named)}
    there = {path for path in KUBERNETES.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert there == {path for path in used if path.is_file() and KUBERNETES in path.parents}
    assert [path for path in used if not path.exists()] == []


@pytest.mark.parametrize("path", resources(), ids=lambda path: path.stem)
def test_a_resource_follows_the_schema(path: Path) -> None:
    assert problems(read(path)) == []


def test_the_schema_refuses_what_it_does_not_know() -> None:
    deployment = resource("Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    assert len(problems(deployment)) == 1


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("PodMonitor", lambda spec: spec["podMetricsEndpoints"][0].update(intervall="10s")),
        ("PodMonitor", lambda spec: spec["podMetricsEndpoints"][0].update(interval="ten seconds")),
        ("PodMonitor", lambda spec: spec.pop("selector")),
        ("PrometheusRule", lambda spec: spec["groups"][0]["rules"][0].update(keepFiringFor="5m")),
    ],
)
def test_the_operators_schema_refuses_what_it_does_not_know(kind: str, change: Callable[[Resource], Any]) -> None:
    document = resource(kind)
    change(document["spec"])
    assert len(problems(document)) == 1


def test_the_operator_is_given_the_rules_of_prometheus() -> None:
    script = runpy.run_path(str(KUBERNETES / "make_rules.py"))
    assert script["FILE"].read_text() == script["resource"](), "run python deploy/kubernetes/make_rules.py"
    groups = resource("PrometheusRule")["spec"]["groups"]
    assert [rule for group in groups for rule in group["rules"]] == rules()


def test_grafanas_sidecar_is_given_every_dashboard() -> None:
    kustomization = read(DASHBOARDS / "kustomization.yaml")
    given = [name for generator in kustomization["configMapGenerator"] for name in generator["files"]]
    assert sorted(given) == sorted(path.name for path in DASHBOARDS.glob("*.json"))
    for name in given:
        assert (DASHBOARDS / name).stat().st_size < 200 * 1024, "kubectl apply keeps a copy in an annotation of 256 KiB"


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_dashboards_arrive_as_they_are(overlay: str, tmp_path: Path) -> None:
    documents = [document for document in rendered(overlay, tmp_path) if document["kind"] == "ConfigMap"]
    labelled = [one for one in documents if one["metadata"]["labels"].get("grafana_dashboard") == "1"]
    arrived = {name: text for document in labelled for name, text in document["data"].items()}
    assert arrived == {path.name: path.read_text() for path in DASHBOARDS.glob("*.json")}


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_needs_nothing_that_a_cluster_may_lack(overlay: str) -> None:
    """kubectl refuses resources of kinds that it does not know, such as the Prometheus operator's."""
    groups = {document["apiVersion"].rpartition("/")[0] for document in rendered(overlay)}
    assert groups == {"", "apps", "policy", "networking.k8s.io"}
    text = (KUBERNETES / "overlays" / overlay / "kustomization.yaml").read_text()
    assert "../../components/prometheus" in text
    assert "add `../../components/prometheus`" in DEPLOY


@needs_kubectl
@pytest.mark.parametrize("is_monitored", [False, True])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_valid_once_put_together(overlay: str, is_monitored: bool, tmp_path: Path) -> None:
    documents = rendered(overlay, tmp_path if is_monitored else None)
    assert [problem for document in documents for problem in problems(document)] == []
    assert {document["metadata"].get("namespace", "bert") for document in documents} == {"bert"}
    configurations = {
        document["metadata"]["name"]
        for document in documents
        if document["kind"] == "ConfigMap" and "grafana_dashboard" not in document["metadata"]["labels"]
    }
    (deployment,) = [document for document in documents if document["kind"] == "Deployment"]
    named = {
        source["configMapRef"]["name"]
        for container in containers(deployment).values()
        for source in container["envFrom"]
        if "configMapRef" in source
    }
    assert named == configurations
    assert [container["image"].rpartition(":")[2] for container in containers(deployment).values()] == [
        "export",
        overlay,
    ]


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_one_volume_is_filled_by_jobs_and_watched_by_the_pods(overlay: str, tmp_path: Path) -> None:
    documents = rendered(overlay, tmp_path, "models-volume")
    assert [problem for document in documents for problem in problems(document)] == []
    (claim,) = [document["metadata"]["name"] for document in documents if document["kind"] == "PersistentVolumeClaim"]
    (deployment,) = [document for document in documents if document["kind"] == "Deployment"]
    jobs = [document["spec"]["jobTemplate"] for document in documents if document["kind"] == "CronJob"]
    for template in (deployment["spec"]["template"], *(job["spec"]["template"] for job in jobs)):
        volumes = {volume.pop("name"): volume for volume in template["spec"]["volumes"]}
        assert volumes["models"] == {"persistentVolumeClaim": {"claimName": claim}}
    app = containers(deployment)
    assert app.keys() == {"app"}
    configurations = {one["metadata"]["name"]: one["data"] for one in documents if one["kind"] == "ConfigMap"}
    (settings,) = [source["configMapRef"]["name"] for source in app["app"]["envFrom"] if "configMapRef" in source]
    assert configurations[settings]["BERT_WATCH_MODELS"] == "true"
    for job in jobs:
        pod = job["spec"]["template"]
        assert pod["metadata"]["labels"] != LABELS, "the Service would select it"
        assert pod["spec"]["securityContext"] == deployment["spec"]["template"]["spec"]["securityContext"]
        (export,) = pod["spec"]["containers"]
        assert export["securityContext"] == app["app"]["securityContext"]
        assert export["image"].endswith(":export")
        assert {source["configMapRef"]["name"] for source in export["envFrom"]} == configurations.keys() - {settings}


def test_jobs_are_made_as_documented_and_never_by_themselves() -> None:
    jobs = {job["metadata"]["name"]: job["spec"] for job in map(read, resources()) if job["kind"] == "CronJob"}
    assert set(re.findall(r"--from=cronjob/(\S+)", DEPLOY)) == jobs.keys()
    assert all(job["suspend"] for job in jobs.values())
    for job in jobs.values():
        (export,) = job["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        assert export["command"][:3] == containers(resource("Deployment"))["export"]["command"]


@needs_kubectl
def test_the_gpu_overlay_asks_for_a_gpu() -> None:
    (deployment,) = [document for document in rendered("gpu") if document["kind"] == "Deployment"]
    app = containers(deployment)["app"]
    assert app["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "BERT_DEVICE", "value": "cuda"} in app["env"]
    assert {"name": "BERT_PORT", "value": "8000"} in app["env"]


@needs_kubectl
def test_one_gpu_is_enough(tmp_path: Path) -> None:
    """A rollout and an autoscaler that want a second GPU would wait for it for ever."""
    by_kind = {document["kind"]: document for document in rendered("gpu", tmp_path)}
    assert by_kind["HorizontalPodAutoscaler"]["spec"]["minReplicas"] == 1
    assert (
        by_kind["HorizontalPodAutoscaler"]["spec"]["metrics"] == resource("HorizontalPodAutoscaler")["spec"]["metrics"]
    )
    assert by_kind["Deployment"]["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    assert by_kind["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


def test_the_hubs_token_is_for_the_export_alone() -> None:
    deployment = containers(resource("Deployment"))
    (token,) = [variable for variable in deployment["export"]["env"] if variable["name"] == "HF_TOKEN"]
    secret = token["valueFrom"]["secretKeyRef"]
    assert secret["optional"]
    assert "HF_TOKEN" not in str(deployment["app"])
    assert secret["name"] not in str(deployment["app"])
    assert f"create secret generic {secret['name']}" in DEPLOY
    assert "secretRef" not in str(deployment["export"])


def test_pods_reach_what_they_need_and_no_more() -> None:
    """Names, the hub, and a collector of traces in the cluster on the port of OTLP over HTTP."""
    open_to_all, traces = resource("NetworkPolicy")["spec"]["egress"]
    assert {port["port"] for port in open_to_all["ports"]} == {53, 443}
    assert traces["to"] == [{"namespaceSelector": {}}]
    assert {port["port"] for port in traces["ports"]} == {4317, 4318}
    endpoint = re.search(r"BERT_OTLP_ENDPOINT=http://[\w.-]+:(\d+)", DEPLOY)
    assert endpoint is not None
    assert int(endpoint[1]) in {port["port"] for port in traces["ports"]}


def test_everything_selects_the_pods_of_the_deployment() -> None:
    template = resource("Deployment")["spec"]["template"]
    assert template["metadata"]["labels"] == LABELS
    assert resource("Deployment")["spec"]["selector"]["matchLabels"] == LABELS
    assert resource("Service")["spec"]["selector"] == LABELS
    assert resource("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == LABELS
    (confined,) = resource("NetworkPolicy")["spec"]["podSelector"]["matchExpressions"]
    jobs = [job["spec"]["jobTemplate"] for job in map(read, resources()) if job["kind"] == "CronJob"]
    labelled = [template, *(job["spec"]["template"] for job in jobs)]
    assert {one["metadata"]["labels"][confined["key"]] for one in labelled} == {*confined["values"]}
    assert resource("PodMonitor")["spec"]["selector"]["matchLabels"] == LABELS
    target = resource("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", resource("Deployment")["metadata"]["name"])


def test_everything_names_the_port_of_the_app() -> None:
    app = containers(resource("Deployment"))["app"]
    (port,) = app["ports"]
    assert {"name": "BERT_PORT", "value": str(port["containerPort"])} in app["env"]
    (service_port,) = resource("Service")["spec"]["ports"]
    (rule,) = resource("NetworkPolicy")["spec"]["ingress"]
    (endpoint,) = resource("PodMonitor")["spec"]["podMetricsEndpoints"]
    probes = [app[probe]["httpGet"]["port"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert {service_port["targetPort"], rule["ports"][0]["port"], endpoint["port"], *probes} == {port["name"]}


def test_everything_asks_for_a_path_of_the_app() -> None:
    app = containers(resource("Deployment"))["app"]
    (endpoint,) = resource("PodMonitor")["spec"]["podMetricsEndpoints"]
    probes = [app[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
    routers = make_health_router(Readiness()), make_metrics_router(Metrics(CollectorRegistry()))
    routes = [route for router in routers for route in router.routes]
    assert {endpoint["path"], *probes} <= {route.path for route in routes if isinstance(route, APIRoute)}


def test_a_container_may_do_no_more_than_it_must() -> None:
    deployment = resource("Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not pod["automountServiceAccountToken"]
    assert not pod["enableServiceLinks"]
    for container in containers(deployment).values():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"].keys() == {"cpu", "memory"}


def test_a_failed_container_says_why_in_its_description() -> None:
    pod = containers(resource("Deployment"))
    assert {name for name, one in pod.items() if one.get("terminationMessagePolicy") == "FallbackToLogsOnError"} == {
        *pod
    }


def test_a_pod_is_given_the_time_to_drain() -> None:
    deployment = resource("Deployment")
    (_, before_s) = containers(deployment)["app"]["lifecycle"]["preStop"]["exec"]["command"]
    shutdown_s = Settings.model_fields["shutdown_timeout_s"].default
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > int(before_s) + shutdown_s


def test_settings_are_those_of_the_server() -> None:
    generated = [
        literal.partition("=")[0]
        for folder in KUSTOMIZATIONS
        for generator in read(folder / "kustomization.yaml").get("configMapGenerator", ())
        for literal in generator["literals"]
    ]
    deployment = containers(resource("Deployment"))
    named = [*generated, *(variable["name"] for variable in deployment["app"]["env"])]
    settings = {name for name in named if name.startswith("BERT_")}
    assert settings <= {f"BERT_{field.upper()}" for field in Settings.model_fields}


def test_an_overlay_decides_where_the_app_listens() -> None:
    """A variable of a container counts before those of a ConfigMap, and a cluster may have IPv6 alone."""
    app = containers(resource("Deployment"))["app"]
    assert "BERT_HOST" not in {variable["name"] for variable in app["env"]}
    assert "ENV BERT_HOST=:: " in (ROOT / "Dockerfile").read_text()


def test_the_autoscaler_asks_for_the_metric_of_the_rule() -> None:
    (metric,) = resource("HorizontalPodAutoscaler")["spec"]["metrics"]
    (rule,) = read(KUBERNETES / "components" / "prometheus" / "adapter-rule.yaml")["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert rule["name"]["as"] not in exposed_names() | exposed_families().keys(), "one name, two meanings"
    assert metric_names(rule["seriesQuery"] + rule["metricsQuery"]) <= exposed_names()
