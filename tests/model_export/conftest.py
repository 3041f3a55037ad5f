"""The small checkpoints of `tests/fixtures`, and a bundle of each, made once for the session."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from app.bundle.files import Bundle, load_bundle
from model_export.export import ExportOptions, export
from tests.model_export.support import CHECKPOINTS, NAMES


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Bundle]:
    """A bundle with every variant of every checkpoint, by its name."""
    folder = tmp_path_factory.mktemp("models")
    for name in NAMES:
        export(ExportOptions(str(CHECKPOINTS / name), folder / name), lambda _: None)
    return {name: load_bundle(folder / name) for name in NAMES}


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
