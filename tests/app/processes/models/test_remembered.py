"""What one start measures of a model, the next one takes over."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bundle.files import Bundle, load_bundle
from app.engine import preparation, tuning
from app.engine.local import LocalEngine
from app.engine.messages import Loaded, Measured, Speed
from app.engine.speed_check import AFTER_S, ALIKE
from app.processes.models import ahead, loading, remembered
from app.processes.models.remembered import Remembered
from app.settings import Settings
from app.telemetry.metrics import Metrics
from tests.app.loaded import loaded as loaded_as
from tests.conftest import BundleOf

Start = Callable[..., Loaded]


@pytest.fixture(scope="module")
def bundle(bundle_of: BundleOf) -> Bundle:
    return load_bundle(bundle_of("bert-single-label"))


@pytest.fixture
def did(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What starts do: try threads, compare golden answers, measure."""
    did: list[str] = []

    def spy(module: Any, name: str) -> None:
        function = getattr(module, name)

        def spied(*arguments: Any, **options: Any) -> Any:
            did.append(name)
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, spied)

    spy(preparation, "useful_threads")
    spy(preparation, "replay_golden")
    monkeypatch.setattr(ahead, "usable_cpus", lambda: 2)
    spy(preparation, "measure_speed")
    monkeypatch.setattr(tuning, "MEASURE_FOR_S", 0.0)
    return did


@pytest.fixture
def start(bundle: Bundle, tmp_path: Path) -> Start:
    """Load the model as a process of a server does, and return how."""

    def start(before: Loaded | None = None, **settings: Any) -> Loaded:
        async def load() -> Loaded:
            engine = LocalEngine()
            known = {} if before is None else {bundle.name: before}
            given: dict[str, Any] = {"device": "cpu", "tuning_cache": True, "tuning_cache_dir": tmp_path} | settings
            try:
                return (await loading.load_models(Settings(**given), [bundle], engine, Metrics(), known))[bundle.name]
            finally:
                await engine.close()

        return asyncio.run(load())

    return start


ALL = ["replay_golden", "useful_threads", "measure_speed"]
"""What a start does of which nothing is known."""


def test_the_next_start_measures_nothing_and_replays_the_golden_answers(
    start: Start, did: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    first = start()
    assert did == ALL
    assert "earlier start" not in caplog.text
    did.clear()
    second = start()
    assert {*did} == {"replay_golden"}
    assert (second.speed, second.threads, second.variant) == (first.speed, first.threads, first.variant)
    assert "earlier start" in caplog.text


@pytest.mark.parametrize(
    "settings",
    [{"batch_tokens": 64}, {"threads": 1}, {"tuning_cache": False}, {"tuning_cache_dir": Path("/proc/none")}],
)
def test_other_settings_measure_again(start: Start, did: list[str], settings: dict[str, Any]) -> None:
    start()
    did.clear()
    one = start(**settings)
    assert did == (["replay_golden", "measure_speed"] if "threads" in settings else ALL)
    assert one.speed.budget_tokens == settings.get("batch_tokens", one.speed.budget_tokens)


def test_the_budget_that_is_set_counts(start: Start, did: list[str]) -> None:
    start(batch_tokens=1000)
    did.clear()
    assert start(batch_tokens=1000).speed.budget_tokens == 1000
    assert {*did} == {"replay_golden"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("processor", "another"), ("cpu_limit", 64.0), ("runtime_versions", "another"), ("__version__", "another")],
)
def test_another_machine_or_release_measures_again(
    start: Start, did: list[str], monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    start()
    did.clear()
    monkeypatch.setattr(remembered, name, (lambda: value) if name != "__version__" else value)
    start()
    assert did == ALL


def test_what_another_bundle_or_the_engine_before_measured_is_not_kept(
    start: Start, did: list[str], tmp_path: Path
) -> None:
    """It was not measured now, and of another bundle it is a guess."""
    before = start(tuning_cache=False)
    start(before)
    assert [*tmp_path.glob("*.json")] == []
    assert did[: len(ALL)] == ALL
    assert {*did[len(ALL) :]} == {"replay_golden"}


def test_without_a_home_nothing_is_kept(start: Start, did: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    for _ in range(2):
        start(tuning_cache_dir=None)
    assert did == [*ALL, *ALL]


@pytest.mark.parametrize("is_absolute", [True, False])
def test_files_are_where_the_user_keeps_caches(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_absolute: bool
) -> None:
    monkeypatch.setattr(tuning, "MEASURE_FOR_S", 0.0)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches") if is_absolute else "caches")
    start(tuning_cache_dir=None)
    caches = tmp_path / "caches" if is_absolute else tmp_path / "home" / ".cache"
    assert {one.suffix for one in (caches / "bert-inference-service").iterdir()} == {".json", ""}


@pytest.mark.parametrize(("times", "is_kept"), [(1.1, True), (0.9, True), (1.1 * ALIKE, False), (0.9 / ALIKE, False)])
def test_what_turns_out_wrong_is_measured_by_the_next_start(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture, times: float, is_kept: bool
) -> None:
    caplog.set_level(logging.INFO)

    class Engine(LocalEngine):
        def check_speed(
            self, bundle: Bundle, speed: Speed, found: Callable[[float], None], *, after_s: float = AFTER_S
        ) -> None:
            assert (bundle.name, speed, after_s) == ("bert-single-label", one.speed, AFTER_S)
            found(times)

    one = loaded_as(96, threads=[1])

    async def main() -> Measured | None:
        settings = Settings(device="cpu", tuning_cache=True, tuning_cache_dir=tmp_path)
        Remembered.of(bundle, settings, "auto", None).keep(one)
        engine = Engine()
        Remembered.of(bundle, settings, "auto", None).check(engine, one)
        await engine.close()
        return Remembered.of(bundle, settings, "auto", None).measured

    assert (asyncio.run(main()) is not None) == is_kept
    assert ("The next start measures again" in caplog.text) != is_kept


@pytest.mark.parametrize(("asked", "had", "is_kept"), [(0, [1, 2], True), (0, [2], False), (2, [2], True)])
def test_what_runs_with_all_cores_only_for_lack_of_memory_is_not_kept(
    bundle: Bundle, tmp_path: Path, asked: int, had: list[int], is_kept: bool
) -> None:
    """The next start may have it."""
    settings = Settings(device="cpu", threads=asked, tuning_cache=True, tuning_cache_dir=tmp_path)

    async def keep() -> None:
        Remembered.of(bundle, settings, "auto", None).keep(loaded_as(threads=had))

    asyncio.run(keep())
    assert len([*tmp_path.iterdir()]) == is_kept


def test_what_was_measured_now_is_not_checked(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    monkeypatch.setattr(tuning, "MEASURE_FOR_S", 0.0)
    monkeypatch.setattr(LocalEngine, "check_speed", lambda _, bundle, *__: checked.append(bundle.name))
    start()
    assert not checked
    start()
    assert checked == ["bert-single-label"]
