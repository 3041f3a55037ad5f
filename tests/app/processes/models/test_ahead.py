"""Models that an earlier start has opened are opened at once, before the rest of the server is there."""

import asyncio
import gc
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from app.bundle.files import Bundle, load_bundle
from app.engine import golden, preparation, tuning
from app.engine.local import LocalEngine
from app.engine.messages import Loaded
from app.errors import BundleError
from app.processes.models import ahead
from app.processes.models.ahead import Ahead, FoundAhead
from app.processes.models.loading import load_models
from app.runtime import choice
from app.runtime.folder_lock import FolderLock
from app.settings import Settings
from app.telemetry.metrics import Metrics
from tests.conftest import BundleOf


@pytest.fixture(scope="module")
def bundles(bundle_of: BundleOf) -> list[Bundle]:
    return [load_bundle(bundle_of(name)) for name in ("bert-single-label", "bert-embed")]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(tuning, "MEASURE_FOR_S", 0.0)
    return Settings(device="cpu", tuning_cache=True, tuning_cache_dir=tmp_path)


def start(settings: Settings, bundles: Sequence[Bundle], opened: Ahead | None = None) -> Mapping[str, Loaded]:
    """Load the bundles as a process of a server does, and return how."""

    async def load() -> Mapping[str, Loaded]:
        engine = LocalEngine()
        try:
            return await load_models(
                settings, bundles, engine, Metrics(), ahead=Ahead(settings, bundles) if opened is None else opened
            )
        finally:
            await engine.close()

    return asyncio.run(load())


def opened_ahead(settings: Settings, bundles: Sequence[Bundle]) -> list[FoundAhead]:
    found = asyncio.run(Ahead(settings, bundles).found())
    return [one for one in found.values() if one.prepared is not None]


def test_the_next_start_opens_all_models_at_once_and_serves_them_as_before(
    settings: Settings, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(settings, bundles)
    together = threading.Barrier(len(bundles), timeout=60)

    def open_runner(*arguments: Any, **options: Any) -> Any:
        together.wait()
        return choice.open_runner(*arguments, **options)

    def measure(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(ahead, "usable_cpus", lambda: len(bundles))
    monkeypatch.setattr(ahead, "open_runner", open_runner)
    monkeypatch.setattr(preparation, "measure_speed", measure)
    second = start(settings, bundles)
    assert list(second) == list(first)
    for name, one in second.items():
        assert (one.speed, one.way, one.taken_bytes) == (first[name].speed, first[name].way, first[name].taken_bytes)


def test_golden_answers_that_an_earlier_start_has_compared_one_by_one_are_compared_together(
    settings: Settings, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def replayed(bundle: Bundle, *arguments: Any, alone: bool) -> None:
        compared.append((bundle.name, alone))
        golden.replay_golden(bundle, *arguments, alone=alone)

    monkeypatch.setattr(preparation, "replay_golden", replayed)
    start(settings, bundles)
    start(settings, bundles)
    names = [bundle.name for bundle in bundles]
    assert sorted(compared) == sorted([(name, alone) for name in names for alone in (False, True)])


def test_a_model_that_was_opened_ahead_is_gone_when_it_is_released(settings: Settings, bundles: list[Bundle]) -> None:
    start(settings, bundles[:1])
    gc.collect()  # that of the first start
    [kept] = Path(str(settings.tuning_cache_dir)).glob("kept-*")

    async def main() -> None:
        engine, opened = LocalEngine(), Ahead(settings, bundles[:1])
        await load_models(settings, bundles[:1], engine, Metrics(), ahead=opened)
        with pytest.raises(BlockingIOError):
            FolderLock(kept, alone=True)
        await engine.release(bundles[0].key)
        FolderLock(kept, alone=True).close()
        await engine.close()

    asyncio.run(main())


def test_nothing_is_opened_ahead_in_a_first_start(settings: Settings, bundles: list[Bundle]) -> None:
    assert not opened_ahead(settings, bundles)


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_nothing_is_opened_ahead_where_there_may_be_a_gpu(
    settings: Settings, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    start(settings, bundles)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    assert not opened_ahead(settings.model_copy(update={"device": device}), bundles)
    assert len(opened_ahead(settings, bundles)) == len(bundles)


def _wrong_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def replay(*_: Any, alone: bool, **__: Any) -> None:
        if not alone:
            raise BundleError("it does not give the golden answers")

    monkeypatch.setattr(preparation, "replay_golden", replay)


def _no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def open_runner(*arguments: Any, **options: Any) -> Any:
        if threading.current_thread().name.startswith("ahead"):
            raise RuntimeError("it does not give the golden answers")
        return choice.open_runner(*arguments, **options)

    monkeypatch.setattr(ahead, "open_runner", open_runner)


@pytest.mark.parametrize("fail", [_wrong_answers, _no_session])
def test_a_model_that_cannot_be_opened_as_remembered_is_opened_as_in_the_first_start(
    settings: Settings,
    bundles: list[Bundle],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    fail: Callable[[pytest.MonkeyPatch], None],
) -> None:
    caplog.set_level(logging.INFO)
    start(settings, bundles)
    with monkeypatch.context() as failing:
        fail(failing)
        assert len(start(settings, bundles)) == len(bundles)
    for bundle in bundles:
        assert f"model {bundle.name} is opened as if nothing were remembered: it does not give" in caplog.text
    assert len(opened_ahead(settings, bundles)) == len(bundles)  # as that start has kept it anew


def test_what_cannot_be_used_is_told_of_once(
    settings: Settings, bundles: list[Bundle], caplog: pytest.LogCaptureFixture
) -> None:
    start(settings, bundles)
    caplog.set_level(logging.INFO)
    for path in Path(str(settings.tuning_cache_dir)).glob("*.json"):
        path.write_text("{}")
    assert len(start(settings, bundles)) == len(bundles)
    assert caplog.text.count("is not used: it is damaged") == len(bundles)


def test_a_model_that_would_run_otherwise_is_measured_by_itself(
    settings: Settings, bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be less memory than there was: what it measures beside others, who open meanwhile, would be wrong."""
    monkeypatch.setattr("app.engine.preparation.useful_threads", lambda _, runner: runner.threads)
    monkeypatch.setattr(ahead, "usable_cpus", lambda: 2)
    [one] = start(settings, bundles[:1]).values()
    assert one.threads == [1, 2]
    monkeypatch.setattr("app.runtime.shared_weights.memory_left_bytes", lambda: 1 << 10)
    monkeypatch.setattr("app.runtime.kept_weights.KeptWeights.find", lambda _: None)
    assert not opened_ahead(settings, bundles[:1])
    [now] = start(settings, bundles[:1]).values()
    assert now.threads == [2]


def test_models_open_before_http_is_imported() -> None:
    script = "import sys, app.processes.launch; print({'fastapi', 'uvicorn', 'tokenizers'} & {*sys.modules})"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
