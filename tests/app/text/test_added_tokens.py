"""Added tokens of any kind: texts get the ids that the `tokenizers` library gives them, or the tokenizer is refused."""

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import tokenizers
from tokenizers import AddedToken

from app.bundle.files import Bundle, describe_file, load_bundle
from app.errors import BundleError
from app.text.tokenizer import Direction, Tokenizer
from tests.app import library
from tests.conftest import BundleOf

NAMES: Final = ("bert-single-label", "roberta-single-label", "xlm-roberta-multi-label")
CHARACTERS: Final = "aAbZ01 #!-_.'[]\n\t\r\u200b\u0301éÉßİ\u00a0\u2028你\U00020000\uff03\u00ad\x07\u3000▁"
CONTENTS: Final = (
    *(
        "\n",
        "\t",
        "\u200b#x",
        "#x",
        "Foo",
        "foobar",
        "barfoo",
        "[X]",
        " a",
        "a ",
        "##a",
        "'s",
        "a\u00a0b",
        "a▁b",
        "\uff21\uff22",
    ),
    *("\uff03x", "É", "e\u0301", "你好", "\U00020000", "  ", "-", "--", "a-b", "a b", "the", "ﬁ", "İ"),
)
FLAGS: Final = ("single_word", "lstrip", "rstrip", "special")


@pytest.fixture
def bundle_with(tmp_path: Path, bundle_of: BundleOf) -> Any:
    """Return a bundle whose tokenizer was changed before it was exported."""

    def bundle_with(name: str, tokens: Sequence[AddedToken], **normalizer: Any) -> Bundle:
        folder = tmp_path / name
        shutil.copytree(bundle_of(name), folder, dirs_exist_ok=True)
        path = folder / "tokenizer.json"
        definition = json.loads(path.read_text())
        if normalizer:
            definition["normalizer"] |= normalizer
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(definition))
        tokenizer.add_tokens(list(tokens))
        path.write_text(tokenizer.to_str())
        bundle = load_bundle(folder)
        bundle.manifest = bundle.manifest.model_copy(update={"tokenizer": describe_file(path), "max_length": 16})
        return bundle

    return bundle_with


def hold_to_the_library(bundle: Bundle, texts: Sequence[str]) -> None:
    ours, whole = Tokenizer(bundle), library.whole(bundle)
    directions: tuple[Direction, ...] = ("right", "left")
    for direction in directions:
        cutting = library.cutting(bundle, direction)
        for text in texts:
            assert ours.encode([text], direction=direction)[0].input_ids.tolist() == cutting.encode(text).ids
    for text in texts:
        [bare] = ours._bare([text], "right")[0].values()
        assert bare[:16] == whole.encode(text, add_special_tokens=False).ids[:16]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("\n", "one two\nthree  four"),  # its normalizer makes a space of it
        ("\u200b#x", "#x a#x #\u200bx"),  # the normalizer leaves out the first character
        ("\u0301x", "x ax"),
        ("É!", "e! É! é! E!"),
        ("#A", "#a #A #Ab"),
        ("a\u00a0b", "a b a\u00a0b"),
    ],
)
@pytest.mark.parametrize("times", [1, 60])
def test_an_added_token_is_sought_as_the_normalizer_leaves_it(
    bundle_with: Any, content: str, text: str, times: int
) -> None:
    bundle = bundle_with("bert-single-label", [AddedToken(content, normalized=True)])
    assert 400 in library.whole(bundle).encode(text).ids, "the text has the token"
    hold_to_the_library(bundle, [text * times, f"{text} " * times])


def drawn(choice: random.Random) -> Iterator[AddedToken]:
    for _ in range(choice.randint(1, 4)):
        content = choice.choice(CONTENTS) if choice.random() < 0.6 else "".join(choice.choices(CHARACTERS, k=3))
        flags = {flag: choice.random() < 0.25 for flag in FLAGS}
        yield AddedToken(content, normalized=choice.random() < 0.7, **flags)


@pytest.mark.parametrize("name", NAMES)
def test_any_added_tokens_give_the_ids_of_the_library(bundle_with: Any, name: str) -> None:
    choice = random.Random(name)
    compared = 0
    for _ in range(25):
        tokens = list(drawn(choice))
        changes: dict[str, Any] = {"lowercase": choice.random() < 0.5, "clean_text": choice.random() < 0.9}
        bundle = bundle_with(name, tokens, **(changes if name.startswith("bert") else {}))
        pieces = [*[token.content for token in tokens] * 3, *CONTENTS, "the", "cat", " ", "  ", ".", *CHARACTERS]
        texts = []
        for _ in range(8):
            text = "".join(choice.choice(pieces) + choice.choice(["", "", " "]) for _ in range(choice.randint(0, 14)))
            texts.append(f"{text} " * choice.choice([1, 1, 40]))
        try:
            hold_to_the_library(bundle, texts)
            compared += 1
        except BundleError:
            pass
        except BaseException as panic:  # of the library, on a text: it fails for all of its users
            if type(panic).__name__ != "PanicException":
                raise
    assert compared > 10


@pytest.mark.parametrize("contents", [["\u200b"], ["\x07"], ["\n", "\t"], ["Foo", "foo"], ["a\u200bb", "ab"]])
def test_added_tokens_that_the_library_cannot_tell_apart_are_refused(bundle_with: Any, contents: list[str]) -> None:
    """It fails on every text that is not ASCII, or takes one of the two, another one whenever it is loaded."""
    bundle = bundle_with("bert-single-label", [AddedToken(content, normalized=True) for content in contents])
    with pytest.raises(BundleError, match=r"tokenizer\.json: its normalizer leaves .* added token.*normalized=False"):
        Tokenizer(bundle)
    as_they_are = [AddedToken(content, normalized=False) for content in contents]
    hold_to_the_library(bundle_with("bert-single-label", as_they_are), ["one\ttwo\nfoo Foo ab a\u200bb"])
