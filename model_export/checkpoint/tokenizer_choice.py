"""Choose the tokenizer that a model was trained with: its tokenizer.json, or what its class makes of a vocabulary.

Version 4 of transformers reads tokenizer.json as it is, but for a few settings of tokenizer_config.json. Version 5 takes only the
vocabulary and the post-processor from it, and the class makes the rest. Most files are what their class makes, and then there is
nothing to choose. Where the two differ, the rule is:

1. tokenizer.json, if the class cannot read it or has another algorithm: no model was trained with that vocabulary cut up otherwise.
2. tokenizer.json, if `save_pretrained` of version 5 wrote the folder's tokenizer: it writes what it used.
3. tokenizer.json, if version 4 or older saved the model (`transformers_version` in config.json): it used the file.
4. Else nobody can know, as version 5 saved the model but not the tokenizer, and a person has to say.
"""

import inspect
import json
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

import tokenizers

from app.bundle.added_tokens import as_sought
from app.bundle.panics import panics_as_errors
from model_export.checkpoint.json_files import read_json, read_json_if_there
from model_export.checkpoint.tokenizer_texts import TEXTS
from model_export.errors import ExportError, one_line

TokenizerChoice = Literal["auto", "file", "class"]

_FILE: Final = "tokenizer.json"
_SETTINGS_FILE: Final = "tokenizer_config.json"
_MAP_FILE: Final = "special_tokens_map.json"
_CONFIG_FILE: Final = "config.json"
_OF_VERSION_5: Final = "TokenizersBackend"
_OF_VERSION_4: Final = "PreTrainedTokenizerFast"
"""What versions 5 and 4 call the class of a tokenizer that is nothing but its file."""


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


def choose_tokenizer(folder: Path, choice: TokenizerChoice) -> Reading:
    """Return the tokenizer of the checkpoint in `folder`.

    Args:
        folder: The checkpoint.
        choice: `file` or `class` to decide, `auto` for the rule above.

    Raises:
        ExportError: it cannot be read, or cannot be known.
    """
    _refuse_other_code(folder, choice)
    if not (folder / _FILE).is_file():
        if choice == "file":
            raise ExportError(f"--tokenizer file: {folder} has no {_FILE}. Leave the option out.")
        return _of_class(_made_by_class(folder), "its vocabulary files")
    if choice == "class":
        return _of_class(_made_by_class(folder), f"the vocabulary of {_FILE}")
    file = _read_file(folder)
    if choice == "file":
        return file
    of_file = encode_texts(folder, file.fast)
    try:
        of_class = _made_by_class(folder)
        encodings = encode_texts(folder, of_class.backend_tokenizer)
    except ExportError:
        return replace(file, origin=f"{_FILE}; transformers 5 cannot read it")
    tells_types = "token_type_ids" in of_class.model_input_names
    differing = sum(
        one.ids != other.ids or (tells_types and one.type_ids != other.type_ids)
        for one, other in zip(of_file, encodings, strict=True)
    )
    if not differing:
        return file
    name = _name(of_class)
    reason = _reason_for_the_file(folder, file.fast, of_class.backend_tokenizer)
    if reason is None:
        raise ExportError(
            f"{folder} has two tokenizers: {_FILE} as transformers 4 reads it, and the {name} that transformers 5 makes of it, "
            f"which differ on {differing} of {len(TEXTS)} texts. {_CONFIG_FILE} says that transformers 5 saved the model, but "
            f"{_SETTINGS_FILE} does not say that it saved the tokenizer, so which one the model was trained with is not known. "
            "Export with --tokenizer class if it was trained with AutoTokenizer of transformers 5, else with --tokenizer file."
        )
    difference = f"the {name} that transformers 5 makes of it differs on {differing} of {len(TEXTS)} texts"
    return replace(file, origin=f"{_FILE}, as {reason}; {difference}")


def _refuse_other_code(folder: Path, choice: TokenizerChoice) -> None:
    path = folder / _SETTINGS_FILE
    settings = read_json_if_there(path)
    if settings.get("auto_map") and choice != "file":
        raise ExportError(
            f"{path} names a tokenizer of the checkpoint's own (auto_map), whose code is not run. If {_FILE} gives the same "
            "tokens, export with --tokenizer file."
        )
    if set(settings.get("fast_tokenizer_files") or ()) - {_FILE}:
        raise ExportError(
            f"{path} names files for other releases in fast_tokenizer_files; only {_FILE} is read. Rename the one that the "
            f"model was trained with to {_FILE}, and take fast_tokenizer_files out."
        )


def _of_class(made: Any, source: str) -> Reading:  # noqa: ANN401  # transformers has no types
    names = made.model_input_names
    return Reading(made.backend_tokenizer, made, "token_type_ids" in names, f"{_name(made)}, from {source}")


def _reason_for_the_file(folder: Path, file: tokenizers.Tokenizer, of_class: tokenizers.Tokenizer) -> str | None:
    kinds = [type(one.model).__name__ for one in (file, of_class)]
    if kinds[0] != kinds[1]:
        return f"its vocabulary is of {kinds[0]}, not {kinds[1]}"
    settings = read_json_if_there(folder / _SETTINGS_FILE)
    if "backend" in settings or settings.get("tokenizer_class") == _OF_VERSION_5:
        return "transformers 5 saved it"
    version = re.match(r"\d+", str(read_json(folder / _CONFIG_FILE).get("transformers_version") or "0"))
    return "transformers 4 reads it" if version and int(version[0]) < 5 else None  # the version


def encode_texts(folder: Path, tokenizer: tokenizers.Tokenizer) -> list[tokenizers.Encoding]:
    """Return the texts on which tokenizers are compared, encoded.

    Raises:
        ExportError: the tokenizer of `folder` cannot encode one of them, or cannot tell its added tokens apart.
    """
    _check_added_tokens(folder, tokenizer)
    try:
        with panics_as_errors():
            return [tokenizer.encode(text, pair) for text, pair in TEXTS]
    except Exception as error:
        raise ExportError(
            f"The tokenizer in {folder} fails on texts with unknown characters ({one_line(error)}). "
            "Put its unknown token into its vocabulary, or replace it with the model's own tokenizer."
        ) from error


def _check_added_tokens(folder: Path, tokenizer: tokenizers.Tokenizer) -> None:
    normalizer = tokenizer.normalizer
    try:
        as_sought(
            [(i, token.content, token.normalized) for i, token in tokenizer.get_added_tokens_decoder().items()],
            str if normalizer is None else normalizer.normalize_str,
        )
    except ValueError as error:
        raise ExportError(
            f"The normalizer of the tokenizer in {folder} leaves {error}, so that a text does not tell which token it has. Take "
            f"one out, or have both found as they are written: set normalized to false for them in {_FILE}, and in "
            f"added_tokens_decoder of {_SETTINGS_FILE} if they are there, too."
        ) from error


def _name(settings: Any) -> str:  # noqa: ANN401  # transformers has no types
    return type(settings).__name__


def _made_by_class(folder: Path) -> Any:  # noqa: ANN401
    """Return the tokenizer that AutoTokenizer makes.

    Raises:
        ExportError: transformers cannot make it, or the class does not read the vocabulary that is there.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415  # takes a second

    try:
        with panics_as_errors():
            made = AutoTokenizer.from_pretrained(folder)
            if made.is_fast and not (folder / _FILE).is_file():
                _check_vocabulary_is_read(folder, made)
                made = _with_version_4_mask(folder, made)
    except ExportError:
        raise
    except Exception as error:
        if any(folder.glob("*.model")) and not find_spec("sentencepiece"):
            raise ExportError(
                f"{folder} has its tokenizer as a sentencepiece model only, and sentencepiece is not installed. Run 'pip install "
                "sentencepiece' in this environment, or save the tokenizer where it is installed with save_pretrained(), which "
                "writes a tokenizer.json."
            ) from error
        raise _unreadable(folder, error) from error
    if not made.is_fast:
        raise ExportError(
            f"{folder} has a {_name(made)}, which runs in Python only and has no tokenizer.json. "
            "Convert it to a fast tokenizer and save it into the folder."
        )
    made.backend_tokenizer.no_truncation()
    made.backend_tokenizer.no_padding()
    return made


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
            f"class wrote the vocabulary that is there, name that as tokenizer_class in {_SETTINGS_FILE}."
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
    return {**read_json_if_there(folder / _SETTINGS_FILE), **read_json_if_there(folder / _MAP_FILE)}


def _read_file(folder: Path) -> Reading:
    """Return tokenizer.json as version 4 reads it: with the added tokens and some settings of tokenizer_config.json.

    Raises:
        ExportError: it is damaged.
    """
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    settings, name = read_json_if_there(folder / _SETTINGS_FILE), _class_name(folder)
    kind = _class_of(name)
    parameters = inspect.signature(kind.__init__).parameters
    try:
        with panics_as_errors():
            known = tokenizers.Tokenizer.from_file(str(folder / _FILE)).get_vocab(with_added_tokens=True)
            named = _special_tokens_of(folder)
            defaults = {
                key: one.default
                for key, one in parameters.items()
                if key.endswith("_token") and key not in named and one.default in known
            }
            read = PreTrainedTokenizerFast.from_pretrained(folder, **defaults)
            definition = json.loads(read.backend_tokenizer.to_str())
            if definition["model"].get("dropout"):
                definition["model"]["dropout"] = None  # for training: tokens would be random
            if name != _OF_VERSION_5:
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
    return Reading(fast, read, tells_types or "token_type_ids" in names, _FILE)


def _class_name(folder: Path) -> str:
    """Return the name of the tokenizer's class: what the folder says, or that of its model's family."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES  # noqa: PLC0415

    config = read_json(folder / _CONFIG_FILE)
    named = read_json_if_there(folder / _SETTINGS_FILE).get("tokenizer_class") or config.get("tokenizer_class")
    return str(named or TOKENIZER_MAPPING_NAMES.get(config.get("model_type")) or _OF_VERSION_4)


def _class_of(name: str) -> Any:  # noqa: ANN401
    """Return the class of this name in version 5."""
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name  # noqa: PLC0415

    kind = None if name == _OF_VERSION_4 else tokenizer_class_from_name(name.removesuffix("Fast"))
    return kind or tokenizer_class_from_name(_OF_VERSION_5)


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
