"""Read a tokenizer in the two ways of transformers: tokenizer.json as version 4 reads it, or what a class of version 5 makes."""

import inspect
import json
import shlex
import sys
from collections.abc import Container, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import tokenizers

from app.bundle.panics import panics_as_errors
from model_export.checkpoint.json_files import read_json, read_json_if_there
from model_export.errors import ExportError, one_line, shown

TOKENIZER_FILE: Final = "tokenizer.json"
SETTINGS_FILE: Final = "tokenizer_config.json"
CONFIG_FILE: Final = "config.json"
OF_VERSION_5: Final = "TokenizersBackend"
"""What version 5 calls the class of a tokenizer that is nothing but its file."""

_OF_VERSION_4: Final = "PreTrainedTokenizerFast"
"""What version 4 calls it."""
_MAP_FILE: Final = "special_tokens_map.json"


@dataclass(frozen=True, slots=True)
class Reading:
    """A tokenizer, and where it is from.

    `settings` is transformers' object, for what is not in a tokenizer.json: special tokens, lengths, sides. `tells_types` is
    whether its token types are passed to the model. `origin` is what a person reads about it.
    """

    fast: tokenizers.Tokenizer
    settings: Any
    tells_types: bool
    origin: str


def read_by_class(folder: Path) -> Reading:
    """Return the tokenizer that the AutoTokenizer of version 5 makes.

    Raises:
        ExportError: transformers cannot make it, or the class does not read the vocabulary that is there.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415  # takes a second

    try:
        with panics_as_errors():
            made = AutoTokenizer.from_pretrained(folder)
            if made.is_fast and not (folder / TOKENIZER_FILE).is_file():
                _check_vocabulary_is_read(folder, made)
                made = _with_version_4_mask(folder, made)
    except ExportError:
        raise
    except Exception as error:
        if any(folder.glob("*.model")) and not (folder / TOKENIZER_FILE).is_file():
            raise _no_sentencepiece(folder) from error
        raise _unreadable(folder, error) from error
    if not made.is_fast:
        raise ExportError(
            f"{folder} has a {_name(made)}, which runs in Python only and has no tokenizer.json. "
            "Convert it to a fast tokenizer and save it into the folder."
        )
    made.backend_tokenizer.no_truncation()
    made.backend_tokenizer.no_padding()
    source = f"the vocabulary of {TOKENIZER_FILE}" if (folder / TOKENIZER_FILE).is_file() else "its vocabulary files"
    tells_types = "token_type_ids" in made.model_input_names
    return Reading(made.backend_tokenizer, made, tells_types, f"{_name(made)}, from {source}")


def _name(made: Any) -> str:  # noqa: ANN401  # transformers has no types
    return type(made).__name__


def _no_sentencepiece(folder: Path) -> ExportError:
    """Return the error of a sentencepiece model that could not be read; transformers then asks for a library that cannot read it."""
    if find_spec("sentencepiece"):
        return ExportError(
            f"The sentencepiece model in {folder} is damaged. Download it again, or save the tokenizer with save_pretrained(), which "
            "writes a tokenizer.json."
        )
    return ExportError(
        f"{folder} has its tokenizer as a sentencepiece model only, and sentencepiece is not installed. Run '"
        f"{shlex.join([sys.executable, '-m', 'pip', 'install', 'sentencepiece'])}', or save the tokenizer where it is installed with "
        "save_pretrained(), which writes a tokenizer.json."
    )


def _unreadable(folder: Path, error: Exception) -> ExportError:
    return ExportError(
        f"transformers cannot read the tokenizer in {folder} ({one_line(error)}). "
        "Save it again with save_pretrained(), which writes a tokenizer.json."
    )


def _check_vocabulary_is_read(folder: Path, made: Any) -> None:  # noqa: ANN401
    """Refuse a class whose files are missing: transformers gives it a vocabulary of five special tokens."""
    files = {name for key, name in made.vocab_files_names.items() if key != "tokenizer_file"}
    missing = sorted(name for name in files if not (folder / name).is_file())
    if missing:
        raise ExportError(
            f"The tokenizer in {folder} is a {_name(made)}, which reads {' and '.join(sorted(files))}, and "
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing. Add the model's own, or, if another "
            f"class wrote the vocabulary that is there, name that as tokenizer_class in {SETTINGS_FILE}."
        )


def _with_version_4_mask(folder: Path, made: Any) -> Any:  # noqa: ANN401
    """Return the tokenizer with a mask that takes the space before it, as version 4's class for RoBERTa makes it.

    Version 5 forgets that where a vocabulary file is all there is. Such files are older than it.
    """
    mask = made.mask_token
    is_plain = not isinstance(_special_tokens_of(folder).get("mask_token"), Mapping)
    if mask is None or not is_plain or not _name(made).startswith("Roberta"):
        return made
    return type(made).from_pretrained(
        folder, mask_token=tokenizers.AddedToken(mask, lstrip=True, special=True, normalized=False)
    )


def _special_tokens_of(folder: Path) -> dict[str, Any]:
    return {**read_json_if_there(folder / SETTINGS_FILE), **read_json_if_there(folder / _MAP_FILE)}


def read_file(folder: Path) -> Reading:
    """Return tokenizer.json as version 4 reads it: with the added tokens and some settings of tokenizer_config.json.

    Raises:
        ExportError: it is damaged.
    """
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    settings, name = read_json_if_there(folder / SETTINGS_FILE), _class_name(folder)
    kind = _class_of(name)
    parameters = inspect.signature(kind.__init__).parameters
    try:
        with panics_as_errors():
            # The library's own way to open a file fails where the locale has no letters for its path.
            stored = tokenizers.Tokenizer.from_buffer((folder / TOKENIZER_FILE).read_bytes())
            known = stored.get_vocab(with_added_tokens=True)
            named = _special_tokens_of(folder)
            defaults = {
                key: one.default
                for key, one in parameters.items()
                if key.endswith("_token") and key not in named and one.default in known
            }
            read = PreTrainedTokenizerFast.from_pretrained(folder, tokenizer_object=stored, **defaults)
            definition = json.loads(read.backend_tokenizer.to_str())
            if definition["model"].get("dropout"):
                definition["model"]["dropout"] = None  # for training: tokens would be random
            if name != OF_VERSION_5:
                _apply_settings(definition, settings, parameters)
            fast = tokenizers.Tokenizer.from_str(json.dumps(definition))
    except Exception as error:
        raise _unreadable(folder, error) from error
    fast.no_truncation()
    fast.no_padding()
    fast.encode_special_tokens = bool(read.split_special_tokens)
    names = settings.get("model_input_names") or kind.model_input_names
    # Version 4 passes them on unless a class says otherwise, version 5 only if it says so.
    tells_types = name == _OF_VERSION_4 and "model_input_names" not in settings
    return Reading(fast, read, tells_types or "token_type_ids" in names, TOKENIZER_FILE)


def _class_name(folder: Path) -> str:
    """Return the name of the tokenizer's class: what the folder says, or that of its model's family."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES  # noqa: PLC0415

    config = read_json(folder / CONFIG_FILE)
    named = read_json_if_there(folder / SETTINGS_FILE).get("tokenizer_class") or config.get("tokenizer_class")
    if named is not None and not isinstance(named, str):
        raise ExportError(
            f"The tokenizer_class of {folder} is {shown(named)}; it must be the name of a class. Correct it, or take it out."
        )
    return named or TOKENIZER_MAPPING_NAMES.get(config.get("model_type")) or _OF_VERSION_4


def _class_of(name: str) -> Any:  # noqa: ANN401
    """Return the class of this name in version 5."""
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name  # noqa: PLC0415

    kind = None if name == _OF_VERSION_4 else tokenizer_class_from_name(name.removesuffix("Fast"))
    return kind or tokenizer_class_from_name(OF_VERSION_5)


def _apply_settings(definition: dict[str, Any], settings: Mapping[str, Any], parameters: Container[str]) -> None:
    """Change what version 4 changes of a file: the settings that the class has, or their defaults, go before it."""
    normalizer, splitter, processor = (
        definition.get(part) or {} for part in ("normalizer", "pre_tokenizer", "post_processor")
    )
    if normalizer.get("type") == "BertNormalizer" and "do_lower_case" in parameters:
        normalizer["lowercase"] = settings.get("do_lower_case", True)
        normalizer["strip_accents"] = settings.get("strip_accents")
        normalizer["handle_chinese_chars"] = settings.get("tokenize_chinese_chars", True)
    if splitter.get("type") == "ByteLevel":
        splitter["add_prefix_space"] = settings.get("add_prefix_space", False)
    if processor.get("type") == "RobertaProcessing" and "trim_offsets" in parameters:
        processor["add_prefix_space"] = settings.get("add_prefix_space", False)
        processor["trim_offsets"] = settings.get("trim_offsets", True)
