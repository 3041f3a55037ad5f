"""docker-compose.yml and what lies on top of it: confined, on loopback, pinned, and in agreement with the service."""

import re
import subprocess
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import Settings
from deploy.fill_models import DEMO_TASKS
from tests.deploy.test_healthcheck import answering

ROOT = Path(__file__).parents[2]
FILES = ("docker-compose.yml", "docker-compose.gpu.yml")
SERVICES = ("export", "app", "prometheus", "grafana")
BY_SERVICE = pytest.mark.parametrize("name", SERVICES)
EACH_ALONE = pytest.mark.parametrize(
    ("name", "file"), [*((name, FILES[0]) for name in SERVICES), ("dcgm-exporter", FILES[1])]
)
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::-([^${}]*))?\}")


def stack(file: str = FILES[0]) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / file).read_text())
    return document


def service(name: str, file: str = FILES[0]) -> dict[str, Any]:
    found: dict[str, Any] = stack(file)["services"][name]
    return found


def by_default(text: str) -> str:
    """Return what a value is where nothing is set."""
    return VARIABLE.sub(lambda match: match[2] or "", text)


def test_there_is_a_test_for_every_service() -> None:
    assert stack()["services"].keys() == set(SERVICES)
    assert stack(FILES[1])["services"].keys() - set(SERVICES) == {"dcgm-exporter"}


@EACH_ALONE
def test_a_service_may_do_no_more_than_it_must(name: str, file: str) -> None:
    described = service(name, file)
    # NVIDIA's writes to its own files when it starts, and reads counters that only this capability opens.
    is_nvidias = name == "dcgm-exporter"
    assert described.get("read_only", False) is not is_nvidias
    assert described.get("cap_add", []) == (["SYS_ADMIN"] if is_nvidias else [])
    assert described["cap_drop"] == ["ALL"]
    assert described["tmpfs"] == ["/tmp"]
    assert described["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in described


@BY_SERVICE
def test_a_service_can_be_stopped_while_it_starts(name: str) -> None:
    """The kernel keeps a signal from process 1 that has no handler for it, which the export never has."""
    assert service(name)["init"] is True


@EACH_ALONE
def test_a_service_has_limits(name: str, file: str) -> None:
    assert {"memory", "pids"} <= service(name, file)["deploy"]["resources"]["limits"].keys()
    assert service(name, file)["logging"]["options"]["max-size"]


@EACH_ALONE
def test_a_service_tells_its_health(name: str, file: str) -> None:
    """The app's check is that of its image; the export ends."""
    assert ("healthcheck" in service(name, file)) == (name not in {"app", "export"})


@pytest.mark.parametrize("status", [HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE, None])
def test_the_check_of_the_gpu_exporter_asks_it(status: HTTPStatus | None) -> None:
    (kind, *command) = service("dcgm-exporter", FILES[1])["healthcheck"]["test"]
    assert kind == "CMD"
    with answering(status or HTTPStatus.OK) as (port, paths):
        command = [part.replace("9400", str(port)).replace("$$", "$") for part in command]
        if status is not None:
            assert (subprocess.run(command, check=False, timeout=30).returncode == 0) == (status == HTTPStatus.OK)
            assert paths == ["/health"]
    if status is None:
        assert subprocess.run(command, check=False, timeout=30, capture_output=True).returncode != 0


@BY_SERVICE
def test_ports_are_on_loopback(name: str) -> None:
    assert [port for port in service(name).get("ports", ()) if not by_default(port).startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("file", FILES)
def test_public_images_are_pinned(file: str) -> None:
    described = stack(file)["services"].values()
    images = [by_default(each["image"]) for each in described if "image" in each and "build" not in each]
    assert images
    assert [image for image in images if not re.search(r":v?\d+\.\d+\.\d+", image)] == []


@BY_SERVICE
def test_what_is_mounted_from_the_checkout_is_there(name: str) -> None:
    for volume in service(name).get("volumes", ()):
        if isinstance(volume, dict):
            assert (ROOT / by_default(volume["source"])).exists()
            assert volume["read_only"]
            continue
        source, _, rest = by_default(volume).partition(":")
        if source.startswith("."):
            assert (ROOT / source).exists()
            assert rest.endswith(":ro")
        else:
            assert source in stack()["volumes"]


def test_no_typing_mistake_makes_a_folder_of_the_host() -> None:
    mounts = [str(volume) for name in SERVICES for volume in service(name).get("volumes", ()) if "${" in str(volume)]
    assert mounts
    assert [mount for mount in mounts if "'create_host_path': False" not in mount] == []


def test_the_order_is_that_of_health() -> None:
    """An export that fails is no reason to take down what was served before."""
    awaited = {"condition": "service_completed_successfully", "required": False}
    assert service("app")["depends_on"] == {"export": awaited}
    assert service("grafana")["depends_on"] == {"prometheus": {"condition": "service_healthy"}}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "sentiment,masked-token,next-sentence"),
        ({"MODEL_NAME": "reviews"}, "reviews"),
        ({"MODEL_NAME": "reviews", "BERT_DEFAULT_MODELS": "classify=topics"}, "classify=topics"),
    ],
)
def test_what_the_export_makes_answers_requests_that_name_no_model(environment: dict[str, str], expected: str) -> None:
    text = service("app")["environment"]["BERT_DEFAULT_MODELS"]
    while match := VARIABLE.search(text):
        text = text.replace(match[0], environment.get(match[1]) or match[2] or "")
    assert text == expected
    assert set(DEMO_TASKS) == {"sentiment", "masked-token", "next-sentence"}


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_a_check_asks_no_proxy(name: str) -> None:
    """An engine may hand a proxy to every container, and busybox's wget knows no exceptions from it."""
    (_, program, *arguments) = service(name)["healthcheck"]["test"]
    assert program == "wget"
    assert arguments[:2] == ["-Y", "off"]


def test_grafana_asks_prometheus_without_a_proxy() -> None:
    sources = yaml.safe_load((ROOT / "monitoring/grafana/provisioning/datasources/prometheus.yml").read_text())
    asked = {re.sub(r"^https?://([^:/]+).*", r"\1", source["url"]) for source in sources["datasources"]}
    environment = service("grafana")["environment"]
    assert asked <= set(environment["NO_PROXY"].split(","))
    assert environment["no_proxy"] == environment["NO_PROXY"]


def test_every_setting_of_the_server_reaches_it() -> None:
    expected = {f"BERT_{field.upper()}" for field in Settings.model_fields}
    assert service("app")["environment"].keys() - {"TMPDIR"} == expected, (
        "name the setting under services.app.environment"
    )


def test_another_version_needs_no_other_container() -> None:
    """The app watches the folder, and nothing of its own description but the name of the default model tells what the export makes."""
    app = service("app")
    assert by_default(app["environment"]["BERT_WATCH_MODELS"]) == "true"
    asked = {name for name, _ in VARIABLE.findall(str(service("export")["environment"]))}
    told = {name for name, _ in VARIABLE.findall(str(app))}
    # A default may hold another variable, which the pattern finds alone.
    assert asked & told == {"MODEL_NAME"}


def test_the_app_has_the_time_to_drain() -> None:
    assert (
        float(service("app")["stop_grace_period"].removesuffix("s"))
        > Settings.model_fields["shutdown_timeout_s"].default
    )


def test_grafana_is_for_those_with_the_password() -> None:
    environment = service("grafana")["environment"]
    assert by_default(environment["GF_AUTH_ANONYMOUS_ENABLED"]) == "false"
    assert environment["GF_USERS_ALLOW_SIGN_UP"] == "false"
    assert "GF_SECURITY_ADMIN_PASSWORD" not in environment
    assert by_default(environment["GF_SECURITY_ADMIN_PASSWORD__FILE"]).startswith("/var/lib/grafana/")


@pytest.mark.parametrize(
    ("name", "secret", "variable", "read_from", "if_none"),
    [
        ("app", "api_key", "BERT_API_KEY_FILE", "BERT_API_KEY_FILE", "none"),
        ("app", "api_keys", "BERT_API_KEYS_FILE", "BERT_API_KEYS_FILE", "no_keys"),
        ("grafana", "grafana_password", "GRAFANA_PASSWORD_FILE", "GF_SECURITY_ADMIN_PASSWORD__FILE", "none"),
    ],
)
def test_a_secret_is_a_file_of_the_host_mounted_where_it_is_read(
    name: str, secret: str, variable: str, read_from: str, if_none: str
) -> None:
    """The path is read as it is set, so that one which is wrong is an error and never no secret at all."""
    assert stack()["secrets"][secret] == {"file": f"${{{variable}:-/dev/null}}"}
    [mount] = [one for one in service(name)["secrets"] if one["source"] == secret]
    assert mount["target"] == f"${{{variable}:-/run/secrets/{if_none}}}"
    value = service(name)["environment"][read_from]
    assert value is None or value.startswith(f"${{{variable}:-")
    assert variable in (ROOT / ".env.example").read_text()


def test_grafana_shows_a_dashboard_that_is_there() -> None:
    mounts = dict(volume.split(":")[1::-1] for volume in service("grafana")["volumes"])
    home = Path(service("grafana")["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (ROOT / mounts[str(home.parent)] / home.name).exists()


def test_prometheus_scrapes_the_services_of_the_stack() -> None:
    configuration = yaml.safe_load((ROOT / "monitoring/prometheus/prometheus.yml").read_text())
    named = re.findall(r"'([a-z-]+)(?::\d+)?'", str(configuration["scrape_configs"]))
    published = {by_default(port).rsplit(":", 1)[1] for port in service("app")["ports"]}
    (found,) = configuration["scrape_configs"][0]["dns_sd_configs"]
    assert (found["names"], str(found["port"])) == (["app"], published.pop())
    assert {"app", "dcgm-exporter"} <= set(named)
    assert "dcgm-exporter" in stack(FILES[1])["services"]


def test_the_gpu_file_gives_the_app_a_gpu() -> None:
    (device,) = service("app", FILES[1])["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert service("app", FILES[1])["environment"]["BERT_DEVICE"] == "cuda"
    assert service("app", FILES[1])["build"]["target"] == "gpu"


def test_the_example_tells_every_variable() -> None:
    example = (ROOT / ".env.example").read_text()
    told = dict(re.findall(r"^#([A-Z_]+)=(.*)$", example, flags=re.MULTILINE))
    text = "".join((ROOT / file).read_text() for file in FILES)
    read = {name for name, _ in VARIABLE.findall(text)} | set(stack()["services"]["app"]["build"]["args"])
    not_for_users = {"APP_IMAGE", "EXPORT_IMAGE", "DCGM_EXPORTER_IMAGE", "VERSION", "REVISION"}
    assert told.keys() - {"COMPOSE_FILE"} >= read - not_for_users
    assert {name for name in told if not name.startswith("BERT_")} - {"COMPOSE_FILE"} <= read - not_for_users
    settings = {f"BERT_{field.upper()}" for field in Settings.model_fields}
    assert {name for name in told if name.startswith("BERT_")} <= settings
