"""A folder's tokenizer is the one that its model was trained with; where that is not known, the export asks."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tokenizers
from transformers import AutoTokenizer

from model_export.checkpoint.load import LoadedCheckpoint, load_checkpoint
from model_export.checkpoint.tokenizer import read_tokenizer
from model_export.checkpoint.tokenizer_choice import TokenizerChoice
from model_export.checkpoint.tokenizer_texts import TEXTS
from model_export.errors import ExportError
from tests.model_export.support import CHECKPOINTS, edit_tensors

Copy = Callable[..., Path]
Json = dict[str, Any]

CASED = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": False}  # fmt: skip
LOWERCASE = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}
UNIGRAM_NAMES = {"pad_token": "<pad>", "unk_token": "<unk>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}  # fmt: skip
NAMES_OF_BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}  # fmt: skip


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None takes one away."""
    stored = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({key: value for key, value in (stored | changes).items() if value is not None}))


def ids(tokenizer: tokenizers.Tokenizer) -> list[list[int]]:
    return [tokenizer.encode(text, pair).ids for text, pair in TEXTS]


def of_file(folder: Path) -> list[list[int]]:
    return ids(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))


def of_class(folder: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(text, pair)["input_ids"] for text, pair in TEXTS]


def load(folder: Path, warnings: list[str] | None = None, **options: Any) -> LoadedCheckpoint:
    warn = [].append if warnings is None else warnings.append
    return load_checkpoint(str(folder), None, **{"task": "auto", "pooling": "auto", "max_length": None, "warn": warn} | options)  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": LOWERCASE},
        {"normalizer": None},
        {"pre_tokenizer": {"type": "WhitespaceSplit"}},
        {"post_processor": None},
    ],
)
def test_a_file_that_transformers_5_saved_is_taken_as_it_is(copy_of: Copy, changes: Json) -> None:
    folder = copy_of("bert-single-label")
    definition = json.loads((folder / "tokenizer.json").read_text()) | changes
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    read = read_tokenizer(folder)
    assert ids(read.fast) == of_file(folder) != of_class(folder)
    assert "transformers 5 saved it; the BertTokenizer that transformers 5 makes of it differs on" in read.origin


@pytest.mark.parametrize(
    ("name", "file", "settings"),
    [
        ("bert-single-label", "xlm-roberta-multi-label", UNIGRAM_NAMES),
        ("roberta-single-label", "bert-single-label", NAMES_OF_BERT),
        ("roberta-single-label", "xlm-roberta-multi-label", {}),
        ("xlm-roberta-multi-label", "bert-single-label", NAMES_OF_BERT),
    ],
)
def test_a_vocabulary_of_another_algorithm_than_the_class_has_is_read_as_it_is(
    copy_of: Copy, name: str, file: str, settings: Mapping[str, str]
) -> None:
    folder = copy_of(name)
    shutil.copy(CHECKPOINTS / file / "tokenizer.json", folder)
    edit(folder / "tokenizer_config.json", **{"bos_token": None, "eos_token": None, "backend": None, **settings})
    assert ids(read_tokenizer(folder).fast) == of_file(folder)


def test_a_vocabulary_of_whole_words_is_read_as_it_is(copy_of: Copy) -> None:
    folder = copy_of("bert-single-label")
    definition = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = definition["model"]["vocab"]
    edit(folder / "tokenizer.json", model={"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"})
    (folder / "tokenizer_config.json").unlink()
    read = read_tokenizer(folder)
    assert ids(read.fast) == of_file(folder) != of_class(folder)
    assert read.origin.startswith("tokenizer.json, as its vocabulary is of WordLevel, not WordPiece; ")


def test_the_version_that_saved_the_model_decides_between_a_file_and_its_class(copy_of: Copy) -> None:
    folder = copy_of("bert-single-label", transformers_version="4.57.1")
    edit(folder / "tokenizer.json", normalizer=LOWERCASE)
    (folder / "tokenizer_config.json").unlink()
    read = read_tokenizer(folder)
    assert ids(read.fast) == of_file(folder)
    assert read.origin.startswith("tokenizer.json, as transformers 4 reads it; ")

    edit(folder / "config.json", transformers_version="5.2.0")
    with pytest.raises(
        ExportError, match=r"is not known. Export with --tokenizer class if .* else with --tokenizer file"
    ):
        read_tokenizer(folder)
    assert ids(read_tokenizer(folder, "file").fast) == of_file(folder)
    assert ids(read_tokenizer(folder, "class").fast) == of_class(folder) != of_file(folder)


def test_a_difference_on_control_characters_alone_is_no_question(copy_of: Copy) -> None:
    """Version 4 keeps U+0085 where version 5 splits: in folders for which version 5 saved the model, but not the tokenizer."""
    folder = copy_of("xlm-roberta-multi-label", transformers_version="5.2.0")
    (folder / "tokenizer_config.json").unlink()
    splitters = json.loads((folder / "tokenizer.json").read_text())["pre_tokenizer"]["pretokenizers"]
    spaces = {"type": "Split", "pattern": {"Regex": r"[\s&&[^\x{85}]]+"}, "behavior": "Removed", "invert": False}
    edit(folder / "tokenizer.json", pre_tokenizer={"type": "Sequence", "pretokenizers": [spaces, *splitters[1:]]})
    read = read_tokenizer(folder)
    assert ids(read.fast) == of_file(folder) != of_class(folder)
    assert read.origin.startswith("tokenizer.json, as the two differ only on control characters; ")
    assert read.origin.endswith(" differs on 1 of 47 texts")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"tokenizer_class": 3}, "tokenizer_class .* is 3; it must be the name of a class"),
        ({"fast_tokenizer_files": 3}, "names files for other releases in fast_tokenizer_files"),
        ({"fast_tokenizer_files": [[]]}, "names files for other releases in fast_tokenizer_files"),
    ],
)
def test_a_setting_of_another_type_is_refused(copy_of: Copy, settings: Json, says: str) -> None:
    folder = copy_of("bert-single-label")
    edit(folder / "tokenizer_config.json", **settings)
    with pytest.raises(ExportError, match=says):
        read_tokenizer(folder)


def test_a_file_on_which_the_library_panics_is_refused(copy_of: Copy) -> None:
    folder = copy_of("roberta-single-label")
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    edit(folder / "tokenizer.json", model=model | {"continuing_subword_prefix": "##"})
    with pytest.raises(ExportError, match="cannot read the tokenizer in"):
        read_tokenizer(folder)


@pytest.mark.parametrize("name", ["bert-single-label", "roberta-single-label"])
def test_settings_of_the_folder_go_before_those_of_its_file(copy_of: Copy, name: str) -> None:
    """As in versions 4 and 5 of transformers."""
    folder = copy_of(name)
    if name == "bert-single-label":
        edit(folder / "tokenizer.json", normalizer=CASED)
    else:
        edit(folder / "tokenizer_config.json", add_prefix_space=True)
    assert ids(read_tokenizer(folder).fast) == of_class(folder) != of_file(folder)


def vocabulary(folder: Path, name: str) -> None:
    """Write the vocabulary of a checkpoint as files that are older than tokenizer.json."""
    model = json.loads((CHECKPOINTS / name / "tokenizer.json").read_text())["model"]
    if model["type"] == "WordPiece":
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in model["vocab"]))
    else:
        merges = "".join(f"{' '.join(merge)}\n" for merge in model["merges"])
        (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}")
        (folder / "vocab.json").write_text(json.dumps(model["vocab"]))


@pytest.mark.parametrize(
    ("name", "other", "missing"),
    [
        ("bert-single-label", "roberta-single-label", "vocab.txt is missing"),
        ("distilbert-one-label", "roberta-single-label", "vocab.txt is missing"),
        ("electra-single-label", "roberta-single-label", "vocab.txt is missing"),
        ("roberta-single-label", "bert-single-label", "merges.txt and vocab.json are missing"),
        ("xlm-roberta-multi-label", "bert-single-label", "sentencepiece.bpe.model is missing"),
        ("camembert-fill-mask", "roberta-single-label", "sentencepiece.bpe.model is missing"),
    ],
)
def test_a_vocabulary_that_the_class_does_not_read_is_refused(
    copy_of: Copy, name: str, other: str, missing: str
) -> None:
    folder = copy_of(name)
    (folder / "tokenizer.json").unlink()
    vocabulary(folder, other)
    with pytest.raises(ExportError, match=f"{missing}. Add the model's own, .* name that as tokenizer_class"):
        read_tokenizer(folder)


def test_a_sentencepiece_model_of_a_bert_is_refused(copy_of: Copy) -> None:
    folder = copy_of("bert-single-label")
    (folder / "tokenizer.json").rename(folder / "sentencepiece.bpe.model")
    with pytest.raises(ExportError, match=r"BertTokenizer, which reads vocab.txt, and vocab.txt is missing"):
        read_tokenizer(folder)


def test_a_named_class_reads_its_vocabulary(copy_of: Copy) -> None:
    folder = copy_of("bert-single-label")
    (folder / "tokenizer.json").unlink()
    vocabulary(folder, "roberta-single-label")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer"}')
    assert ids(read_tokenizer(folder).fast) == of_file(CHECKPOINTS / "roberta-single-label")


def test_the_mask_of_a_roberta_takes_the_space_before_it_also_from_vocabulary_files(copy_of: Copy) -> None:
    """As in version 4; version 5 leaves the space where there is no tokenizer.json."""
    folder = copy_of("roberta-fill-mask")
    expected = of_file(folder)
    (folder / "tokenizer.json").unlink()
    vocabulary(folder, "roberta-fill-mask")
    assert ids(read_tokenizer(folder).fast) == expected != of_class(folder)


def with_added(folder: Path, *contents: str, is_normalized: bool = True) -> Path:
    path = folder / "tokenizer.json"
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.add_tokens([tokenizers.AddedToken(content, normalized=is_normalized) for content in contents])
    path.write_text(tokenizer.to_str())
    return folder


@pytest.mark.parametrize("choice", ["auto", "file", "class"])
@pytest.mark.parametrize(
    ("contents", "says"),
    [
        (["\u200b"], "nothing of the added token with id 400"),
        (["\n", "\t"], "the same of the added tokens with ids 400 and 401"),
        (["Covid", "covid"], "the same of the added tokens with ids 400 and 401"),
    ],
)
def test_added_tokens_that_a_text_does_not_tell_apart_are_refused(
    copy_of: Copy, contents: list[str], says: str, choice: TokenizerChoice
) -> None:
    folder = with_added(copy_of("bert-single-label"), *contents)
    with pytest.raises(ExportError, match=f"{says}.*set normalized to false"):
        read_tokenizer(folder, choice)
    as_written = with_added(copy_of("bert-entities"), *contents, is_normalized=False)
    assert read_tokenizer(as_written, choice).fast.encode(contents[0]).ids[1] == 400


def test_a_panic_of_the_library_is_an_error(copy_of: Copy) -> None:
    folder = copy_of("bert-single-label")
    edit(folder / "tokenizer.json", normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})
    with pytest.raises(ExportError, match="transformers cannot read the tokenizer"):
        read_tokenizer(folder, "file")


def test_a_tokenizer_without_its_unknown_token_is_refused(copy_of: Copy) -> None:
    folder = copy_of("bert-single-label", transformers_version="4.0.0")
    definition = json.loads((folder / "tokenizer.json").read_text())
    edit(folder / "tokenizer.json", model=definition["model"] | {"unk_token": "[NONE]"})
    for choice in get_args(TokenizerChoice)[:2]:
        with pytest.raises(ExportError, match="fails on texts with unknown characters"):
            read_tokenizer(folder, choice)


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        (440, {}, None),
        (512, {}, None),
        (500, {}, "warned"),
        (700, {}, "warned"),
        (1000, {}, "refused"),
        (1000, {"tokenizer": "file"}, "warned"),
    ],
)
def test_a_vocabulary_far_smaller_than_the_embeddings_is_questioned(
    copy_of: Copy, rows: int, options: Json, says: str | None
) -> None:
    """It has 400 tokens; sizes are rounded up, and some tokens may be unused."""

    folder = copy_of("distilbert-two-labels", vocab_size=rows)

    def grow(tensors: dict[str, Any]) -> None:
        name = "distilbert.embeddings.word_embeddings.weight"
        tensors[name] = np.resize(tensors[name], (rows, tensors[name].shape[1]))

    edit_tensors(folder, grow)
    warnings: list[str] = []
    if says == "refused":
        with pytest.raises(
            ExportError, match=r"has 400 tokens, but .* vocab_size of 1000.* or say that it is .*--tokenizer file"
        ):
            load(folder, warnings, **options)
    else:
        load(folder, warnings, **options)
    assert bool(warnings) == (says == "warned")


@pytest.mark.parametrize(("kind", "tells"), [("PreTrainedTokenizerFast", True), ("TokenizersBackend", False)])
@pytest.mark.parametrize("name", ["bert-nli", "electra-single-label"])
def test_types_of_a_second_text_are_those_of_the_version_that_saved_the_tokenizer(
    copy_of: Copy, name: str, kind: str, *, tells: bool
) -> None:
    """Version 4 passes the types of a tokenizer without a class of its own to the model, version 5 does not."""
    folder = copy_of(name)
    edit(folder / "tokenizer_config.json", tokenizer_class=kind, backend=None)
    assert load(folder).network.uses_token_types == tells
    edit(folder / "tokenizer_config.json", tokenizer_class=None)
    edit(folder / "config.json", tokenizer_class=kind)
    assert load(folder).network.uses_token_types == tells
    edit(folder / "tokenizer_config.json", model_input_names=["input_ids", "attention_mask"])
    assert not load(folder).network.uses_token_types


def test_types_of_a_file_count_as_its_tokens_do(copy_of: Copy) -> None:
    folder = copy_of("bert-nli", transformers_version="4.57.1")
    template = json.loads((folder / "tokenizer.json").read_text())["post_processor"]
    for token in template["pair"]:
        next(iter(token.values()))["type_id"] = 0
    edit(folder / "tokenizer.json", post_processor=template)
    (folder / "tokenizer_config.json").unlink()
    read = read_tokenizer(folder)
    assert set(read.fast.encode("a", "b").type_ids) == {0}
    assert "the BertTokenizer that transformers 5 makes of it differs on 3 of" in read.origin


def test_a_type_that_the_model_does_not_have_is_refused(copy_of: Copy) -> None:
    folder = copy_of("bert-nli", transformers_version="4.57.1")
    template = json.loads((folder / "tokenizer.json").read_text())["post_processor"]
    for token in template["pair"][3:]:
        next(iter(token.values()))["type_id"] = 2
    edit(folder / "tokenizer.json", post_processor=template)
    with pytest.raises(ExportError, match=r"gives the token type 2, but its config.json has a type_vocab_size of 2"):
        load(folder)


@pytest.mark.parametrize(
    ("setting", "file", "side"),
    [("left", None, "left"), (None, "Left", "left"), ("right", "Left", "right"), (None, None, "right")],
)
def test_the_end_that_is_cut_is_the_checkpoints(copy_of: Copy, setting: str, file: str, side: str) -> None:
    folder = copy_of("bert-single-label")
    edit(folder / "tokenizer_config.json", truncation_side=setting)
    if file:
        cutting = {"direction": file, "max_length": 9, "strategy": "LongestFirst", "stride": 0}
        edit(folder / "tokenizer.json", truncation=cutting)
    assert read_tokenizer(folder).truncation_side == side


def test_a_mask_that_is_read_as_text_cannot_be_filled(copy_of: Copy) -> None:
    folder = copy_of("bert-fill-mask")
    edit(folder / "tokenizer_config.json", split_special_tokens=True)
    with pytest.raises(ExportError, match="Set split_special_tokens to false"):
        load(folder)


def test_a_context_before_its_question_is_refused(copy_of: Copy) -> None:
    folder = copy_of("bert-answer")
    edit(folder / "tokenizer_config.json", padding_side="left")
    with pytest.raises(ExportError, match='Set padding_side to "right"'):
        load(folder)
    assert load(folder, task="embed").network.task.name == "embed"
