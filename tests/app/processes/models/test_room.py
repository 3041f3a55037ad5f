"""Whether a bundle fits beside what is served."""

from pathlib import Path

import pytest

from app.bundle.files import load_bundle
from app.errors import NoRoom
from app.processes.models import room
from app.settings import Settings
from tests.conftest import BundleOf


@pytest.mark.parametrize(("left", "fits"), [(10_000, False), (1 << 30, True), (None, True)])
def test_a_bundle_that_cannot_fit_is_refused_with_the_figures(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch, left: int | None, fits: bool
) -> None:
    monkeypatch.setattr(room, "memory_left_bytes", lambda: left)
    bundle, settings = load_bundle(bundle_of("bert-single-label")), Settings(models=Path(), device="cpu")
    if fits:
        room.require_room(bundle, settings)
        return
    with pytest.raises(NoRoom, match=r"needs about 65 MiB .* has 0 MiB left.*--swap unload-first"):
        room.require_room(bundle, settings)


def test_what_a_bundle_like_it_took_counts_instead_of_the_estimate(
    bundle_of: BundleOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, settings = load_bundle(bundle_of("bert-single-label")), Settings(models=Path(), device="cpu")
    [weights] = [variant.graph.size_bytes for variant in bundle.manifest.variants if variant.name == "cpu-fp32"]
    monkeypatch.setattr(room, "memory_left_bytes", lambda: int(1.1 * weights))
    room.require_room(bundle, settings, int(1.05 * weights))
    room.require_room(bundle, settings, 1)  # what was freed before made room, and is no measure
    with pytest.raises(NoRoom, match="needs about 100 MiB"):
        room.require_room(bundle, settings, 100 << 20)
    unload_first = Settings(models=Path(), device="cpu", swap="unload-first")
    room.require_room(bundle, unload_first, 100 << 20, 100 << 20)
    with pytest.raises(NoRoom, match=r"has 50 MiB left\. [^-]*$"):
        room.require_room(bundle, unload_first, 100 << 20, 50 << 20)


def test_memory_is_measured_as_it_grows() -> None:
    grown = room.measure_memory(Settings(models=Path(), device="cpu"))
    held = bytearray(b"x") * (64 << 20)
    assert 0.9 * len(held) < grown(False) < 2 * len(held)  # what is shared with other processes changes with them
    assert grown(True) == 0
