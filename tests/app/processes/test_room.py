"""Whether a bundle fits beside what is served."""

from pathlib import Path

import pytest

from app.bundle.files import load_bundle
from app.errors import NoRoom
from app.processes import room
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
    with pytest.raises(NoRoom, match=r"needs about 1 MiB .* has 0 MiB left.*--swap unload-first"):
        room.require_room(bundle, settings)
