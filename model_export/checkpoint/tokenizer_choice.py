"""Choose the tokenizer that a model was trained with: its tokenizer.json, or what its class makes of a vocabulary.

Version 4 of transformers reads tokenizer.json as it is, but for a few settings of tokenizer_config.json. Version 5 takes only the
vocabulary and the post-processor from it, and the class makes the rest. Most files are what their class makes, and then there is
nothing to choose. Where the two differ, the rule is:

1. tokenizer.json, if the class cannot read it or has another algorithm: no model was trained with that vocabulary cut up otherwise.
2. tokenizer.json, if `save_pretrained` of version 5 wrote the folder's tokenizer: it writes what it used.
3. tokenizer.json, if version 4 or older saved the model (`transformers_version` in config.json): it used the file.
4. tokenizer.json, if they differ only on texts with control characters, which hardly any text has: it is not worth a question.
5. Else nobody can know, as version 5 saved the model but not the tokenizer, and a person has to say.
"""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import tokenizers

from app.bundle.added_tokens import as_sought
from app.bundle.panics import panics_as_errors
from model_export.checkpoint.json_files import read_json, read_json_if_there
from model_export.checkpoint.tokenizer_readings import (
    CONFIG_FILE,
    OF_VERSION_5,
    SETTINGS_FILE,
    TOKENIZER_FILE,
    Reading,
    read_by_class,
    read_file,
)
from model_export.checkpoint.tokenizer_texts import CONTROL_CHARACTERS, TEXTS
from model_export.errors import ExportError, one_line

TokenizerChoice = Literal["auto", "file", "class"]


def choose_tokenizer(folder: Path, choice: TokenizerChoice) -> Reading:
    """Return the tokenizer of the checkpoint in `folder`.

    Args:
        folder: The checkpoint.
        choice: `file` or `class` to decide, `auto` for the rule above.

    Raises:
        ExportError: it cannot be read, or cannot be known.
    """
    _refuse_other_code(folder, choice)
    if not (folder / TOKENIZER_FILE).is_file():
        if choice == "file":
            raise ExportError(f"--tokenizer file: {folder} has no {TOKENIZER_FILE}. Leave the option out.")
        return read_by_class(folder)
    if choice == "class":
        return read_by_class(folder)
    file = read_file(folder)
    if choice == "file":
        return file
    of_file = encode_texts(folder, file.fast)
    try:
        of_class = read_by_class(folder)
        encodings = encode_texts(folder, of_class.fast)
    except ExportError:
        return replace(file, origin=f"{TOKENIZER_FILE}; transformers 5 cannot read it")
    differing = [
        text
        for (text, _), one, other in zip(TEXTS, of_file, encodings, strict=True)
        if one.ids != other.ids or (of_class.tells_types and one.type_ids != other.type_ids)
    ]
    if not differing:
        return file
    name = type(of_class.settings).__name__
    reason = _reason_for_the_file(folder, file.fast, of_class.fast, differing)
    if reason is None:
        raise ExportError(
            f"{folder} has two tokenizers: {TOKENIZER_FILE} as transformers 4 reads it, and the {name} that transformers 5 makes of it, "
            f"which differ on {len(differing)} of {len(TEXTS)} texts. {CONFIG_FILE} says that transformers 5 saved the model, but "
            f"{SETTINGS_FILE} does not say that it saved the tokenizer, so which one the model was trained with is not known. "
            "Export with --tokenizer class if it was trained with AutoTokenizer of transformers 5, else with --tokenizer file."
        )
    difference = f"the {name} that transformers 5 makes of it differs on {len(differing)} of {len(TEXTS)} texts"
    return replace(file, origin=f"{TOKENIZER_FILE}, as {reason}; {difference}")


def _refuse_other_code(folder: Path, choice: TokenizerChoice) -> None:
    path = folder / SETTINGS_FILE
    settings = read_json_if_there(path)
    if settings.get("auto_map") and choice != "file":
        raise ExportError(
            f"{path} names a tokenizer of the checkpoint's own (auto_map), whose code is not run. If {TOKENIZER_FILE} gives the same "
            "tokens, export with --tokenizer file."
        )
    if settings.get("fast_tokenizer_files") not in (None, [], [TOKENIZER_FILE]):
        raise ExportError(
            f"{path} names files for other releases in fast_tokenizer_files; only {TOKENIZER_FILE} is read. Rename the one that the "
            f"model was trained with to {TOKENIZER_FILE}, and take fast_tokenizer_files out."
        )


def _reason_for_the_file(
    folder: Path, file: tokenizers.Tokenizer, of_class: tokenizers.Tokenizer, differing: Iterable[str]
) -> str | None:
    kinds = [type(one.model).__name__ for one in (file, of_class)]
    if kinds[0] != kinds[1]:
        return f"its vocabulary is of {kinds[0]}, not {kinds[1]}"
    settings = read_json_if_there(folder / SETTINGS_FILE)
    if "backend" in settings or settings.get("tokenizer_class") == OF_VERSION_5:
        return "transformers 5 saved it"
    version = re.match(r"\d+", str(read_json(folder / CONFIG_FILE).get("transformers_version") or "0"))
    if version and int(version[0]) < 5:  # the version
        return "transformers 4 reads it"
    return "the two differ only on control characters" if set(differing) <= set(CONTROL_CHARACTERS) else None


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
            f"one out, or have both found as they are written: set normalized to false for them in {TOKENIZER_FILE}, and in "
            f"added_tokens_decoder of {SETTINGS_FILE} if they are there, too."
        ) from error
