"""Texts to token ids and back: short and long, alone and many, cut at either end."""

import itertools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from app.bundle.files import Bundle, describe_file, load_bundle
from app.errors import BundleError, ValidationFailed
from app.text.located import Encoded
from app.text.pairs import Strategy
from app.text.tokenizer import LONG_TEXT, Direction, TextInput, Tokenizer, clean_up
from tests.app import library
from tests.conftest import BundleOf
from tests.fixtures.corpus import CLASSIFY

MODELS = ["bert-single-label", "roberta-single-label", "xlm-roberta-multi-label"]
INPUTS: list[TextInput] = [one if isinstance(one, str) else (one["text"], one["text_pair"]) for one in CLASSIFY]


@pytest.fixture(scope="module", params=MODELS)
def bundle(request: pytest.FixtureRequest, bundle_of: BundleOf) -> Bundle:
    return load_bundle(bundle_of(request.param))


@pytest.fixture(scope="module")
def tokenizer(bundle: Bundle) -> Tokenizer:
    return Tokenizer(bundle)


@pytest.fixture(scope="module")
def bert(bundle_of: BundleOf) -> Tokenizer:
    return Tokenizer(load_bundle(bundle_of("bert-single-label")))


def listed(encoded: list[Encoded]) -> list[tuple[list[int], list[int], bool]]:
    return [(one.input_ids.tolist(), one.token_type_ids.tolist(), one.was_truncated) for one in encoded]


@pytest.mark.parametrize("direction", get_args(Direction))
def test_texts_are_encoded_alike_alone_and_together(tokenizer: Tokenizer, direction: Direction) -> None:
    together = tokenizer.encode(INPUTS, direction=direction)
    assert listed(together) == [listed(tokenizer.encode([one], direction=direction))[0] for one in INPUTS]
    assert all(one.input_ids.dtype == one.token_type_ids.dtype == "int32" for one in together)


@pytest.mark.parametrize("direction", get_args(Direction))
@pytest.mark.parametrize("text", ["good late very ", "天気 ", "a", "\u0301", " "])
def test_long_and_short_texts_are_encoded_alike(
    bundle: Bundle, tokenizer: Tokenizer, text: str, direction: Direction
) -> None:
    """They take different ways into the tokenizer."""
    long = text * LONG_TEXT
    expected = library.cutting(bundle, direction).encode(long)
    [got] = tokenizer.encode([long], direction=direction)
    assert listed([got]) == [(expected.ids, expected.type_ids, bool(expected.overflowing))]
    assert len(got.input_ids) <= tokenizer.max_length


def test_the_direction_decides_which_end_is_cut(bert: Tokenizer) -> None:
    start, end = " ".join(["good"] * 38), " ".join(["late"] * 38)
    [right] = bert.encode([f"{start} {end}"])
    [left] = bert.encode([f"{start} {end}"], direction="left")
    [only_start], [only_end] = bert.encode([start]), bert.encode([end])
    assert right.input_ids.tolist() == only_start.input_ids.tolist()
    assert left.input_ids.tolist() == only_end.input_ids.tolist()
    assert (right.was_truncated, only_start.was_truncated) == (True, False)
    # Asking for the other end changed nothing.
    assert bert.encode([f"{start} {end}"])[0].input_ids.tolist() == right.input_ids.tolist()


@pytest.mark.parametrize("direction", get_args(Direction))
def test_the_bundle_decides_which_end_is_cut_where_the_request_does_not(
    bundle_of: BundleOf, direction: Direction
) -> None:
    bundle = load_bundle(bundle_of("bert-single-label"))
    manifest = bundle.manifest.model_copy(update={"truncation_side": direction})
    tokenizer = Tokenizer(Bundle(bundle.folder, manifest))
    text = " ".join(f"good {word}" for word in ("cat late day",) * 200)
    for one in (text, (text, "late"), ("late", text), (text, text)):
        assert listed(tokenizer.encode([one])) == listed(tokenizer.encode([one], direction=direction))
    pairs = [(text, "late day"), ("late day", text)]
    for strategy in get_args(Strategy):
        ours = tokenizer.encode_pairs(pairs[:1], "{}".format, strategy=strategy)
        assert listed(ours) == listed(
            tokenizer.encode_pairs(pairs[:1], "{}".format, direction=direction, strategy=strategy)
        )


def test_special_tokens_within_a_text_are_text_if_the_bundle_says_so(bundle: Bundle) -> None:
    manifest = bundle.manifest.model_copy(update={"splits_special_tokens": True})
    tokenizer = Tokenizer(Bundle(bundle.folder, manifest))
    splitting = library.cutting(bundle, "right")
    splitting.encode_special_tokens = True
    for text in [f"good [MASK] <mask> [PAD] <pad> late{end}" for end in ("", " day" * LONG_TEXT)]:
        [whole], [split] = Tokenizer(bundle).encode([text]), tokenizer.encode([text])
        assert whole.input_ids.tolist() != split.input_ids.tolist() == splitting.encode(text).ids


def test_the_longer_text_of_a_pair_is_cut(bert: Tokenizer) -> None:
    [pair] = bert.encode([("good " * 100, "late late")])
    [end] = bert.encode(["late late"])
    assert len(pair.input_ids) == bert.max_length
    assert pair.input_ids.tolist()[-3:] == end.input_ids.tolist()[-3:]
    assert pair.token_type_ids.tolist() == [0] * 37 + [1] * 3


@pytest.mark.parametrize("name", ["bert-next-sentence", "roberta-answer", "xlm-roberta-multi-label"])
@pytest.mark.parametrize("removed", ["a", "[A-Za-z]"])
def test_pairs_keep_their_texts_if_single_letters_have_no_tokens(
    tmp_path: Path, bundle_of: BundleOf, name: str, removed: str
) -> None:
    folder = shutil.copytree(bundle_of(name), tmp_path / name)
    path = folder / "tokenizer.json"
    definition = json.loads(path.read_text())
    removes = {"type": "Replace", "pattern": {"Regex": removed}, "content": ""}
    normalizers = [removes, definition["normalizer"]] if definition["normalizer"] else [removes]
    path.write_text(json.dumps(definition | {"normalizer": {"type": "Sequence", "normalizers": normalizers}}))
    bundle = load_bundle(folder)
    bundle.manifest = bundle.manifest.model_copy(update={"tokenizer": describe_file(path)})
    texts = ["bed", "a", "", "你好", "one two"]
    pairs = list(itertools.product(texts, texts))
    ours, theirs = Tokenizer(bundle).encode_pairs(pairs, str), library.cutting(bundle, "right").encode_batch(pairs)
    assert [(one.input_ids.tolist(), one.token_type_ids.tolist()) for one in ours] == [
        (one.ids, one.type_ids) for one in theirs
    ]


def test_a_tokenizer_that_makes_no_tokens_is_refused(tmp_path: Path, bundle_of: BundleOf) -> None:
    folder = shutil.copytree(bundle_of("roberta-answer"), tmp_path / "model")
    path = folder / "tokenizer.json"
    removes = {"type": "Replace", "pattern": {"Regex": r"[\s\S]"}, "content": ""}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"normalizer": removes}))
    bundle = load_bundle(folder)
    bundle.manifest = bundle.manifest.model_copy(update={"tokenizer": describe_file(path)})
    with pytest.raises(BundleError, match=r"tokenizer\.json makes no tokens of any text in .*golden\.json"):
        Tokenizer(bundle)


def test_a_long_input_is_refused_with_its_index(bert: Tokenizer) -> None:
    long = "good " * 39
    assert not bert.encode(["good " * 38], truncation=False)[0].was_truncated
    with pytest.raises(ValidationFailed, match=r"inputs\[0\] has more than 40 tokens.*Shorten it"):
        bert.encode([long], truncation=False)
    with pytest.raises(ValidationFailed, match=r"inputs\[2\]"):
        bert.encode(["good", "good", long, long], truncation=False)
    with pytest.raises(ValidationFailed, match=r"inputs\[0\]"):
        bert.encode(["good " * LONG_TEXT], truncation=False)


def test_a_single_token_is_found_by_its_text(bert: Tokenizer) -> None:
    [good] = bert.encode(["good"])
    assert bert.token_id("good") == good.input_ids[1]
    assert bert.token_id("GOOD ") == good.input_ids[1]  # as the model would read it
    assert bert.token_id("[MASK]") == 4
    assert bert.token_id("##t") is not None
    for text in ("good day", "supercalifragilistic", "天天", "", " ", "[UNK] [UNK]", "good" * LONG_TEXT):
        assert bert.token_id(text) is None, text


def test_token_ids_decode_to_text(bert: Tokenizer) -> None:
    [encoded] = bert.encode(["Is it late, or very late?"])
    ids = encoded.input_ids.tolist()
    assert bert.decode(ids, skip_special_tokens=True).replace(" ", "") == "isitlate,orverylate?"
    assert bert.decode(ids, skip_special_tokens=False).startswith("[CLS]")


@pytest.mark.parametrize("text", [*INPUTS, "good " * LONG_TEXT, ("a", "good " * LONG_TEXT)])
def test_an_uncut_text_has_the_offsets_of_all_tokens(bundle: Bundle, tokenizer: Tokenizer, text: TextInput) -> None:
    parts = (text,) if isinstance(text, str) else text
    [whole] = tokenizer.encode_located([text], cut=None)
    [cut] = tokenizer.encode([text])
    if not cut.was_truncated:
        assert whole.input_ids.tolist() == cut.input_ids.tolist()
        assert whole.token_type_ids.tolist() == cut.token_type_ids.tolist()
    assert len(whole.texts) == len(parts)
    together = tokenizer.encode_located([text, "good"], cut=None)[0]
    assert together.offsets.tolist() == whole.offsets.tolist()
    for part, tokens in zip(parts, whole.texts, strict=True):
        pieces = whole.offsets[tokens.start : tokens.stop]
        assert (pieces[:, 0] <= pieces[:, 1]).all()
        assert pieces.max(initial=0) <= len(part)
        words = whole.words[tokens.start : tokens.stop]
        assert (np.diff(words) >= 0).all()
        # Nothing of the text is left out but spaces and what the normalizer drops.
        covered = set(itertools.chain.from_iterable(range(*pair) for pair in pieces.tolist()))
        assert all(not part[i].isalnum() for i in range(len(part)) if i not in covered)
    inside = sum(map(len, whole.texts))
    assert (
        (whole.words == -1).sum()
        == len(whole.input_ids) - inside
        == library.whole(bundle).num_special_tokens_to_add(len(parts) == 2)
    )


@pytest.mark.parametrize("direction", get_args(Direction))
def test_a_cut_text_has_the_offsets_of_its_tokens(bert: Tokenizer, direction: Direction) -> None:
    texts = ["good", "good " * 50, "late " * LONG_TEXT]
    located, encoded = bert.encode_located(texts, direction), bert.encode(texts, direction=direction)
    for one, other, text in zip(located, encoded, texts, strict=True):
        assert one.input_ids.tolist() == other.input_ids.tolist()
        assert one.was_truncated == other.was_truncated
        [tokens] = one.texts
        assert len(tokens) == len(one.input_ids) - 2
        first, last = one.offsets[tokens.start, 0], one.offsets[tokens.stop - 1, 1]
        assert (first == 0) if direction == "right" else (last == len(text.rstrip()))


def test_a_text_in_windows_has_a_limit(bert: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.text.pieces.MOST_TOKENS", 50)
    bert.encode_located(["good " * 48], cut=None)
    with pytest.raises(ValidationFailed, match=r"inputs\[1\] has over 50 tokens, the most .*Split it"):
        bert.encode_located(["good", "good " * 49], cut=None)
    bert.encode_located(["good " * 49], "right")


@pytest.mark.parametrize("text", [" ", "\u200b"])
def test_a_text_without_tokens_has_an_empty_range_at_the_end(bert: Tokenizer, text: str) -> None:
    [alone], [pair] = bert.encode_located([text], cut=None), bert.encode_located([("good", text)], cut=None)
    assert alone.texts == (range(2, 2),)
    assert pair.texts == (range(1, 2), range(4, 4))
    assert alone.offsets.shape == (2, 2)


def test_tokens_keep_their_markers(bert: Tokenizer, bundle_of: BundleOf) -> None:
    ids = bert.encode(["cats"])[0].input_ids.tolist()
    tokens = [bert.token(id_) for id_ in ids]
    assert tokens[0] == "[CLS]"
    assert any(token.startswith("##") for token in tokens)
    assert bert.join(tokens[1:-1]) == "cats"
    assert bert.marks_subwords
    assert not Tokenizer(load_bundle(bundle_of("roberta-single-label"))).marks_subwords


def test_clean_up_joins_punctuation_to_the_word_before() -> None:
    assert clean_up("do n't , it 's me ! i 've , we 're ; i 'm ?") == "don't, it's me! i've, we're ; i'm?"


def test_threads_may_share_a_tokenizer(bundle_of: BundleOf) -> None:
    """Both directions are asked for at once."""
    fresh = Tokenizer(load_bundle(bundle_of("bert-single-label")))
    text = "good " * 50 + "late " * 50
    directions: list[Direction] = ["left", "right"] * 16

    def encode(direction: Direction) -> list[int]:
        return fresh.encode([text], direction=direction)[0].input_ids.tolist()

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(encode, directions))
    assert results == [results[0], results[1]] * 16
    assert results[0] != results[1]
