"""Models are opened as the settings say."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app.bundle.files import load_bundle
from app.engine.local import LocalEngine
from app.engine.messages import Loaded, Serving
from app.processes.models import ahead, loading, room
from app.processes.models.bad_bundles import bad_bundles
from app.processes.models.succession import as_before
from app.runtime import choice
from app.runtime.runner import OrtRunner
from app.settings import Settings
from app.telemetry.metrics import Metrics
from model_export.export import ExportOptions, export
from tests.app.loaded import loaded as loaded_as
from tests.conftest import BundleOf
from tests.support import CHECKPOINTS


@pytest.mark.parametrize("is_same", [True, False])
def test_the_next_engine_reuses_the_threads_of_the_lost_one(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch, is_same: bool
) -> None:
    """Of the same bundle, that is: another one under its name may be another model."""
    bundle = load_bundle(bundle_of("bert-single-label"))
    asked: list[Sequence[int]] = []

    def open_runner(*arguments: Any, threads: Sequence[int], **options: Any) -> OrtRunner:
        asked.append(threads)
        return choice.open_runner(*arguments, threads=threads, **options)

    monkeypatch.setattr(ahead, "open_runner", open_runner)
    monkeypatch.setattr(ahead, "usable_cpus", lambda: 6)
    monkeypatch.setattr("app.engine.preparation.useful_threads", lambda _, runner: runner.threads[:1])
    identity = bundle.identity if is_same else "another"
    before = {bundle.name: loaded_as(identity=identity, threads=[1], seconds_per_token=2e-5)}

    async def load() -> dict[str, Loaded]:
        engine = LocalEngine()
        settings, metrics = Settings(models=Path()), Metrics()
        loaded = await loading.load_models(settings, [bundle], engine, metrics, as_before([bundle], Serving(before)))
        await engine.close()
        return loaded

    loaded = asyncio.run(load())[bundle.name]
    assert asked == [[1] if is_same else [1, 3, 6]]
    assert loaded.threads == [1]
    assert loaded.identity == bundle.identity
    assert (loaded.speed.seconds_per_token == 2e-5) == is_same


def test_the_next_engine_loads_what_was_served_first_and_skips_a_new_one_that_does_not_fit(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be what the engine before was killed for, and would be again."""
    new, old = load_bundle(bundle_of("bert-embed")), load_bundle(bundle_of("bert-single-label"))
    monkeypatch.setattr(room, "memory_left_bytes", lambda: 1 << 20)
    before = Serving({old.name: loaded_as(identity=old.identity, threads=[1])})
    settings, bad = Settings(models=Path(), device="cpu"), bad_bundles(Settings(models=Path()), is_successor=True)

    async def load() -> dict[str, Loaded]:
        engine, known = LocalEngine(), as_before([new, old], before)
        try:
            return await loading.load_models(settings, [new, old], engine, Metrics(), known, bad=bad, is_successor=True)
        finally:
            await engine.close()

    assert list(asyncio.run(load())) == [old.name]
    assert bad.names == [new.name]


@pytest.mark.parametrize(("threads", "warnings"), [(1, 0), (2, 1)])
def test_more_threads_than_cpus_are_logged(
    bundle_of: BundleOf,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    threads: int,
    warnings: int,
) -> None:
    """They wait for each other: a container's limit of CPUs was lowered, and the setting was not."""
    bundle = load_bundle(bundle_of("bert-single-label"))
    monkeypatch.setattr(loading, "usable_cpus", lambda: 1)

    async def load() -> None:
        engine = LocalEngine()
        settings = Settings(models=Path(), threads=threads)
        await loading.load_models(settings, [bundle], engine, Metrics())
        await engine.close()

    asyncio.run(load())
    assert [record.name for record in caplog.records if record.levelname == "WARNING"] == [
        "app.processes.models.loading"
    ] * warnings


def test_each_model_runs_in_the_precision_that_is_set_for_it(bundle_of: BundleOf, tmp_path: Path) -> None:
    """One model without int8 keeps no other from it."""
    checkpoint = str(CHECKPOINTS / "bert-single-label")
    # A model of two random layers changes more answers than a trained one, and nobody counts them here.
    export(
        ExportOptions(checkpoint, tmp_path / "both", variants=["cpu-fp32", "cpu-int8"], keeps_inaccurate=True),
        lambda _: None,
    )
    (tmp_path / "third").symlink_to(tmp_path / "both")
    bundles = [load_bundle(folder) for folder in (tmp_path / "both", bundle_of("bert-fill-mask"), tmp_path / "third")]

    async def load() -> dict[str, Loaded]:
        engine = LocalEngine()
        settings = Settings(models=Path(), precision="int8,third=fp32", threads=1, batch_tokens=512)
        loaded = await loading.load_models(settings, bundles, engine, Metrics())
        await engine.close()
        return loaded

    variants = {name: one.variant for name, one in asyncio.run(load()).items()}
    assert variants == {"both": "cpu-int8", "bert-fill-mask": "cpu-fp32", "third": "cpu-fp32"}
