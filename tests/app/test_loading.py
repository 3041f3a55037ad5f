"""Models are opened as the settings say."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from app import loading
from app.bundle import load_bundle
from app.engine import LocalEngine
from app.metrics import Metrics
from app.ort_runner import OrtRunner
from app.settings import Settings
from tests.conftest import BundleOf


def test_what_cuda_lacks_is_told_once(bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may be opened several times, to find out how many threads it needs."""
    bundle = load_bundle(bundle_of("bert-single-label"))
    asked: list[str] = []
    real = loading.open_runner

    def open_runner(*arguments: Any, device: str, **options: Any) -> OrtRunner:
        asked.append(device)
        return real(*arguments, device="cpu", **options)

    def open_three_times(_: Any, with_threads: Any, *, cpus: int) -> OrtRunner:
        return [with_threads(max(1, cpus // divisor)) for divisor in (1, 2, 4)][-1]

    monkeypatch.setattr(loading, "open_runner", open_runner)
    monkeypatch.setattr(loading, "open_with_few_threads", open_three_times)

    async def load() -> None:
        engine = LocalEngine()
        await loading.load_models(Settings(models=Path()), [bundle], engine, Metrics(CollectorRegistry()))
        await engine.close()

    asyncio.run(load())
    assert asked == ["auto", "cpu", "cpu"]
