"""What the system does not let the export read or write is told in a sentence, and before the work that it would waste.

Root may read and write everything, and the tests may run as root: so the system's refusals are made here.
"""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from model_export.errors import ExportError
from model_export.export import ExportOptions, export
from tests.model_export.checkpoint.test_weights import shard

Copy = Callable[..., Path]


def refusal(folder: Path, output: Path) -> tuple[str, list[str]]:
    """Return the message of an export that must fail, and the steps that it took."""
    steps: list[str] = []
    with pytest.raises(ExportError) as caught:
        export(ExportOptions(str(folder), output), steps.append)
    return str(caught.value), steps


def forbid(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Let nobody open a file."""
    opened = Path.open

    def refusing(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", refusing)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("bert-single-label", "config.json"),
        ("bert-single-label", "tokenizer.json"),
        ("bert-single-label", "tokenizer_config.json"),
        ("bert-single-label", "model.safetensors"),
        ("bert-regression", "vocab.txt"),
        ("bert-embed", "modules.json"),
        ("bert-embed", "1_Pooling/config.json"),
    ],
)
def test_file_of_the_checkpoint(
    copy_of: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, file: str
) -> None:
    folder = copy_of(name)
    forbid(monkeypatch, folder / file)
    message, steps = refusal(folder, tmp_path / "out")
    assert message == f"{folder / file} cannot be read: Permission denied. Let the user that runs the export read it."
    assert steps == ["Reading the checkpoint"]


@pytest.mark.parametrize("file", ["model.safetensors.index.json", "model-00002-of-00002.safetensors"])
def test_file_of_sharded_weights(copy_of: Copy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    folder = copy_of("bert-single-label")
    shard(folder)
    forbid(monkeypatch, folder / file)
    assert f"{folder / file} cannot be read: Permission denied." in refusal(folder, tmp_path / "out")[0]


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_that_this_user_may_not_read(copy_of: Copy, tmp_path: Path, file: str) -> None:
    folder = copy_of("bert-single-label")
    (folder / file).chmod(0)
    assert f"{folder / file} cannot be read: Permission denied." in refusal(folder, tmp_path / "out")[0]


def test_folder_above_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(self: Path) -> NoReturn:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr("model_export.export.check_output", lambda _: None)
    monkeypatch.setattr(Path, "is_dir", refusing)
    assert refusal(tmp_path / "closed" / "it", tmp_path / "out")[0].startswith(
        f"{tmp_path / 'closed' / 'it'} cannot be read: Permission denied. "
    )


def test_output_is_looked_at_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(_suffix: str | None, _prefix: str, folder: Path) -> NoReturn:
        assert folder == tmp_path, "the nearest folder that is there"
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / ".out.abcdefgh"))

    monkeypatch.setattr(tempfile, "mkdtemp", refusing)
    output = tmp_path / "models" / "out"
    message, steps = refusal(tmp_path / "nowhere", output)
    assert message == (
        f"--output {output} cannot be written: {tmp_path}: Read-only file system. "
        "Let the user that runs this command write there, or choose another folder."
    )
    assert steps == []
    assert list(tmp_path.iterdir()) == []


def test_looking_at_the_output_leaves_nothing_there(tmp_path: Path) -> None:
    assert "neither a folder" in refusal(tmp_path / "no" / "where", tmp_path / "models" / "out")[0]
    assert list(tmp_path.iterdir()) == []


def test_output_where_a_file_system_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "out")
    message, steps = refusal(tmp_path / "nowhere", tmp_path / "out")
    assert "is where a file system is mounted, which no folder can take the place of." in message
    assert steps == []
