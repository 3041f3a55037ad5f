"""What stands in a file's place but is no file that can be read: each is refused by name, and nothing waits for it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from model_export.checkpoint.find import find_checkpoint
from model_export.checkpoint.json_files import read_json
from model_export.checkpoint.sentence_transformers import read_embedding_settings
from model_export.checkpoint.tokenizer import read_tokenizer
from model_export.checkpoint.weights import open_weights
from model_export.errors import ExportError
from model_export.export import ExportOptions, export

Copy = Callable[..., Path]


def fifo(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 437955512\n")


def huge(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 40)  # takes no place on the disk


READERS: dict[str, Callable[[Path], object]] = {
    "config.json": lambda folder: find_checkpoint(str(folder)),
    "tokenizer.json": read_tokenizer,
    "tokenizer_config.json": read_tokenizer,
    "model.safetensors": open_weights,
    "modules.json": lambda folder: read_embedding_settings(folder, "auto"),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("put", "expected"),
    [
        (fifo, "{path} is a FIFO, not a file."),
        (device, "{path} is a device, not a file."),
        (Path.mkdir, "{path} is a folder, not a file."),
        (loop, "{path} cannot be read: Too many levels of symbolic links."),
        (dangling, "{path} is a link to a file that is not there."),
        (
            pointer,
            "{folder} has pointers of Git LFS in the place of {name}: .* Run 'git lfs install' and 'git lfs pull'",
        ),
    ],
)
def test_what_is_no_file_is_refused_by_name(
    copy_of: Copy, name: str, put: Callable[[Path], None], expected: str
) -> None:
    folder = copy_of("bert-single-label")
    (folder / "vocab.txt").write_text("a")  # so that the folder has a tokenizer
    (folder / name).unlink(missing_ok=True)
    put(folder / name)
    with pytest.raises(ExportError, match=expected.format(path=folder / name, folder=folder, name=name)):
        READERS[name](folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_huge_file_is_refused_unread(copy_of: Copy, name: str) -> None:
    folder = copy_of("bert-single-label")
    (folder / name).unlink()
    huge(folder / name)
    with pytest.raises(ExportError, match=f"{name} has 1099511627776 bytes; "):
        READERS[name](folder)


def test_a_link_to_modules_that_are_not_there_makes_no_plain_model(copy_of: Copy, tmp_path: Path) -> None:
    """Without them, embeddings would lack their Dense layers, and a CrossEncoder would be a classifier."""
    for name in ("bert-embed-dense", "roberta-rerank"):
        folder = copy_of(name)
        (folder / "modules.json").unlink()
        dangling(folder / "modules.json")
        with pytest.raises(ExportError, match=r"modules\.json is a link to a file that is not there"):
            export(ExportOptions(str(folder), tmp_path / "out"), lambda _: None)


def test_a_folder_whose_one_vocabulary_is_a_dead_link_is_told_so(copy_of: Copy) -> None:
    folder = copy_of("bert-single-label")
    (folder / "tokenizer.json").unlink()
    dangling(folder / "tokenizer.json")
    with pytest.raises(ExportError, match=r"tokenizer\.json is a link to a file that is not there"):
        read_tokenizer(folder)


def test_nesting_that_is_too_deep_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ExportError, match="is not JSON"):
        read_json(path)
