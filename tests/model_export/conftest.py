"""The small checkpoints of `tests/fixtures`, and a bundle of each."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from app.bundle.files import Bundle, load_bundle
from model_export.export import GPU_VARIANTS
from tests.conftest import BundleOf
from tests.model_export.support import CHECKPOINTS


class Bundles(dict[str, Bundle]):
    """Bundles by the name of their checkpoint, each exported when a test first asks for it."""

    def __init__(self, bundle_of: BundleOf, variants: Sequence[str]) -> None:
        self._bundle_of = bundle_of
        self._variants = variants

    def __missing__(self, name: str) -> Bundle:
        self[name] = load_bundle(self._bundle_of(name, variants=self._variants))
        return self[name]


@pytest.fixture(scope="session")
def bundles(bundle_of: BundleOf) -> Mapping[str, Bundle]:
    """A bundle with every variant of every checkpoint."""
    return Bundles(bundle_of, GPU_VARIANTS)


@pytest.fixture(scope="session")
def rounded_bundles(bundle_of: BundleOf) -> Mapping[str, Bundle]:
    """A bundle in fp32 and int8 of every checkpoint."""
    return Bundles(bundle_of, ("cpu-fp32", "cpu-int8"))


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[..., Path]:
    """Copy a checkpoint to change it; keyword arguments go into its config, None takes a key away."""

    def copy(name: str, **config: object) -> Path:
        folder = shutil.copytree(CHECKPOINTS / name, tmp_path / name)
        path = folder / "config.json"
        changed = json.loads(path.read_text()) | config
        path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))
        return folder

    return copy
