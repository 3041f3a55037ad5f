"""One replica in this process, with a stand-in for what Ray tells it."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter
from ray import serve
from ray.serve.schema import ServeDeploySchema
from yaml import safe_load

from app.errors import EngineLost
from deploy.ray.metrics import render
from deploy.ray.replica import Replica, replica_settings
from deploy.ray.service import Options
from tests.support import ROOT


def test_a_replica_that_lost_its_device_refuses_and_is_not_healthy(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERT_MODELS", str(models))
    context = SimpleNamespace(replica_id=SimpleNamespace(unique_id="abc"), deployment="bert", app_name="bert")
    monkeypatch.setattr(serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(serve, "get_deployment_handle", lambda *_: None)

    async def run() -> None:
        replica = Replica.__new__(Replica)
        await replica.__init__(cpus=1, gpus=0)  # type: ignore[misc] # Ray awaits it
        application = replica.__serve_build_asgi_app__()
        body = {"model": "distilbert-two-labels", "inputs": "text"}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://replica") as client:
            await replica.check_health()
            assert (await client.post("/v1/classify", json=body)).status_code == 200

            replica._engine._lose(EngineLost("The device failed."))
            await asyncio.sleep(0)  # what waits for the engine's end runs in the next turn of the loop

            with pytest.raises(EngineLost):
                await replica.check_health()
            answer = await client.post("/v1/classify", json=body)
            assert (answer.status_code, answer.json()["error_type"]) == (503, "engine_lost")
        await replica._close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("gpus", "environment", "threads", "device"),
    [
        (0, {}, 3, "auto"),
        (0.5, {}, 3, "cuda"),
        (1, {"BERT_DEVICE": "cpu", "BERT_THREADS": "7"}, 7, "cpu"),
    ],
)
def test_a_replica_uses_what_ray_gave_it(
    gpus: float, environment: dict[str, str], threads: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    settings = replica_settings(cpus=2.5, gpus=gpus)
    assert (settings.threads, settings.device) == (threads, device)


def test_series_of_replicas_share_a_family() -> None:
    replicas = []
    for name in ("first", "second"):
        registry = CollectorRegistry()
        Counter("requests", "Requests.", ["status"], registry=registry).labels("200").inc()
        replicas.append((name, list(registry.collect())))
    lines = [line for line in render(replicas).decode().splitlines() if "created" not in line]
    assert lines == [
        "# HELP requests_total Requests.",
        "# TYPE requests_total counter",
        'requests_total{instance="first",status="200"} 1.0',
        'requests_total{instance="second",status="200"} 1.0',
    ]


def test_the_configuration_files_are_what_ray_reads() -> None:
    service = safe_load((ROOT / "deploy/ray/rayservice.yaml").read_text())["spec"]
    texts = [(ROOT / "deploy/ray/serve.yaml").read_text(), service["serveConfigV2"]]
    for text in texts:
        config = ServeDeploySchema.model_validate(safe_load(text))
        [application] = config.applications
        assert application.import_path == "deploy.ray.service:build"
        Options.model_validate(application.args)
