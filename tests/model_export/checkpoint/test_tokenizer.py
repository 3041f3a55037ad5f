"""`tokenizer.json` and the manifest hold all of a checkpoint's tokenizer that serving needs."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from app.text.tokenizer import clean_up
from model_export.checkpoint.tokenizer import read_tokenizer
from model_export.errors import ExportError
from tests.model_export.support import CHECKPOINTS, NAMES

Copy = Callable[..., Path]

TEXTS = (
    "Don't worry , it's good ! Isn't it ?",
    "  Café  déjà-vu \t naïve\n",
    "今天天气很好,我们去公园散步。",
    "I love it 😀👍",
    "[MASK] <mask> [SEP] </s> <pad>",
    "",
)


def with_settings(folder: Path, **settings: object) -> Path:
    path = folder / "tokenizer_config.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(stored | settings))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_encodes_as_transformers(name: str) -> None:
    theirs = AutoTokenizer.from_pretrained(CHECKPOINTS / name)
    ours = read_tokenizer(CHECKPOINTS / name)
    for text in TEXTS:
        assert ours.fast.encode(text).ids == theirs(text)["input_ids"]
        pair = theirs(text, "A pair.", return_token_type_ids=True)
        encoding = ours.fast.encode(text, "A pair.")
        assert (encoding.ids, encoding.type_ids) == (pair["input_ids"], pair["token_type_ids"])


@pytest.mark.parametrize("cleans_up", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_decodes_as_transformers(copy_of: Copy, name: str, *, cleans_up: bool) -> None:
    folder = with_settings(copy_of(name), clean_up_tokenization_spaces=cleans_up)
    theirs = AutoTokenizer.from_pretrained(folder)
    ours = read_tokenizer(folder)
    generator = np.random.default_rng(5)
    sequences = [generator.integers(0, ours.ids, 30).tolist() for _ in range(20)]
    sequences += [[i] for i in range(ours.ids)] + [theirs(text)["input_ids"] for text in TEXTS]
    for ids in sequences:
        for skip in (True, False):
            decoded = ours.fast.decode(ids, skip_special_tokens=skip)
            expected = theirs.decode(ids, skip_special_tokens=skip)
            assert (clean_up(decoded) if ours.cleans_up else decoded) == expected


@pytest.mark.parametrize(
    ("name", "cleans_up"), [("bert-fill-mask", True), ("xlm-roberta-fill-mask", True), ("roberta-fill-mask", False)]
)
def test_byte_pairs_are_never_cleaned_up(copy_of: Copy, name: str, *, cleans_up: bool) -> None:
    folder = with_settings(copy_of(name), clean_up_tokenization_spaces=True)
    assert read_tokenizer(folder).cleans_up == cleans_up


def test_byte_pairs_are_cleaned_up_if_a_second_setting_insists(copy_of: Copy) -> None:
    insists = {"clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": True}
    folder = with_settings(copy_of("roberta-fill-mask"), clean_up_tokenization_spaces=True, **insists)
    assert read_tokenizer(folder).cleans_up


def test_truncation_and_padding_of_the_file_are_left_out(copy_of: Copy) -> None:
    folder = copy_of("bert-single-label")
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    document["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    document["padding"] = {
        "strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    }  # fmt: skip
    path.write_text(json.dumps(document))
    assert 3 < len(read_tokenizer(folder).fast.encode("I love this product").ids) < 50


def test_case_is_that_of_the_checkpoint() -> None:
    cased, uncased = (read_tokenizer(CHECKPOINTS / name).fast for name in ("bert-multi-label", "bert-single-label"))
    assert uncased.encode("Good").ids == uncased.encode("good").ids
    assert cased.encode("Good").ids != cased.encode("good").ids


@pytest.mark.parametrize(
    ("name", "max_length"), [("bert-single-label", 40), ("bert-regression", None), ("distilbert-one-label", 512)]
)
def test_maximum_length_as_the_checkpoint_says(name: str, max_length: int | None) -> None:
    assert read_tokenizer(CHECKPOINTS / name).max_length == max_length


@pytest.mark.parametrize(("token", "name"), [("pad_token", "pad"), ("unk_token", "unknown"), ("mask_token", "mask")])
@pytest.mark.parametrize("checkpoint", ["bert-fill-mask", "roberta-fill-mask"])
def test_a_special_token_without_a_text_is_refused(copy_of: Copy, checkpoint: str, token: str, name: str) -> None:
    """transformers gives it the id of the unknown token, or asks itself for that without an end."""
    folder = copy_of(checkpoint)
    (folder / "special_tokens_map.json").write_text(json.dumps({token: {"text": "[X]"}}))
    with pytest.raises(ExportError, match=rf"has an empty {name} token\. Correct it"):
        read_tokenizer(folder)
