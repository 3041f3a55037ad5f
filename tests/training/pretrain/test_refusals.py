"""What cannot work is told before anything is learnt."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import CHECKPOINTS
from tests.training.pretrain.language import TINY, write_texts

pytestmark = pytest.mark.torch

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        (b"", (), "no line of the files has a text."),
        (b"One. Two.\nThree.", (), "the texts have 1 document, and this needs 4"),
        (b"a\n\nb\n\nc", (), "the texts have 3 documents, and this needs 4"),
        (b"a\n\nb\n\nc\n\nd", ("--eval-share", "0"), "--eval-share 0 holds out nothing"),
        (b"a\n\nb\n\nc\n\n\xff", (), "is not utf-8, soon after line"),
        (b"a", ("--encoding", "utf-9"), "there is no encoding 'utf-9'"),
        (b"a", ("--hidden-size", "100"), "--hidden-size 100 is no multiple of --num-attention-heads 12"),
        (b"a", ("--max-length", "7"), "--max-length must be 8 or more"),
        (b"a", ("--checkpoint", "x", "--hidden-size", "64"), "--hidden-size is for a new network"),
        (
            b"ab\n\nab\n\nab\n\nab",
            ("--vocab-size", "8"),
            "--vocab-size 8 has no room for the texts' 2 different characters: give at least 10.",
        ),
        (
            b"\n\n".join([b"the quick brown fox jumps over a lazy dog"] * 9),
            ("--vocab-size", "60"),
            "--vocab-size 60 has no room for the texts' 26 different characters: give at least 104.",
        ),
        ("a\n\na\n\na\n\n\u200b\n\n\u200b\n\na".encode(), (), "too few documents have a text that has tokens"),
    ],
)
def test_options_and_texts(
    tmp_path: Path, refused: Refused, text: bytes, options: tuple[str, ...], reason: str
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_bytes(text)
    assert reason in refused("pretrain", "--texts", texts, "--output", tmp_path / "out", *options)


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a"], "has no [MASK]"),
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "a"], "has tokens twice: 'a'"),
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "anna", "in", "."], "the tokenizer does not fit these texts"),
    ],
)
def test_vocabularies(tmp_path: Path, refused: Refused, tokens: list[str], reason: str) -> None:
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(tokens) + "\n")
    texts = write_texts(tmp_path / "texts.txt")
    assert reason in refused("pretrain", "--texts", texts, "--output", tmp_path / "out", "--vocab", vocab, *TINY)


@pytest.mark.parametrize(
    ("checkpoint", "options", "reason"),
    [
        ("roberta-fill-mask", (), "is of the family roberta; this goes on only with bert"),
        ("bert-fill-mask", ("--max-length", "4096"), "--max-length 4096 is not from 5, which two texts"),
    ],
)
def test_checkpoints(tmp_path: Path, refused: Refused, checkpoint: str, options: tuple[str, ...], reason: str) -> None:
    texts = write_texts(tmp_path / "texts.txt")
    given = ("--texts", texts, "--output", tmp_path / "out", "--checkpoint", CHECKPOINTS / checkpoint)
    assert reason in refused("pretrain", *given, *options)


def test_an_output_among_the_texts(tmp_path: Path, refused: Refused) -> None:
    write_texts(tmp_path / "texts.txt")
    told = refused("pretrain", "--texts", tmp_path, "--output", tmp_path / "out", *TINY)
    assert "or one is in the other: name another --output." in told
