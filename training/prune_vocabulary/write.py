"""Write the folder of the smaller checkpoint, except for its weights."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from training.prune_vocabulary.document import without_others
from training.prune_vocabulary.source import CONFIG_FILE, TOKENIZER_FILE, Source

_SETTINGS_FILE: Final = "tokenizer_config.json"
_MODULES_FILE: Final = "modules.json"
_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".ot", ".onnx", ".index.json")
_VOCABULARIES: Final = (
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
)
"""They have the old ids; transformers makes the tokenizer of tokenizer.json alone."""


def write_files(source: Source, folder: Path, new_ids: Mapping[int, int], vocab_size: int) -> None:
    """Copy what is not of the vocabulary, and write what is anew. tokenizer.json takes the place of the vocabulary's other files."""
    _copy_others(source.folder, folder)
    if not (folder / TOKENIZER_FILE).exists():
        source.tokenizer.save_pretrained(folder)
    document = without_others(_read(folder / TOKENIZER_FILE), new_ids)
    (folder / TOKENIZER_FILE).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    for name in (CONFIG_FILE, "generation_config.json"):
        if (path := folder / name).exists():
            config = _read(path)
            config |= {key: new_ids[token_id] for key, token_id in named_ids(config).items() if token_id in new_ids}
            _write(path, config | ({"vocab_size": vocab_size} if "vocab_size" in config else {}))
    if (path := folder / _SETTINGS_FILE).exists():
        settings = _read(path)
        if added := settings.get("added_tokens_decoder"):
            settings["added_tokens_decoder"] = {
                str(new_ids[int(token_id)]): token for token_id, token in added.items() if int(token_id) in new_ids
            }
            _write(path, settings)


def named_ids(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the token ids of a config."""
    return {key: value for key, value in config.items() if key.endswith("_token_id") and isinstance(value, int)}


def _copy_others(source: Path, folder: Path) -> None:
    path = source / _MODULES_FILE
    modules = {module["path"] for module in json.loads(path.read_bytes())} if path.exists() else set()
    folder.mkdir()
    for path in source.iterdir():
        if path.is_dir() and path.name in modules:
            shutil.copytree(path, folder / path.name)
        elif path.is_file() and path.name not in _VOCABULARIES and not path.name.endswith(_WEIGHTS):
            shutil.copyfile(path, folder / path.name)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
