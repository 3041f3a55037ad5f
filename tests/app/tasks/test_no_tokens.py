"""Inputs of which a tokenizer without special tokens leaves nothing: they are refused before any model runs."""

import json
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from app.bundle.files import describe_file, load_bundle
from app.errors import ValidationFailed
from app.tasks import TASKS
from app.tasks.base import Model
from app.text.tokenizer import Tokenizer
from tests.conftest import BundleOf

NOTHING: Final = (" ", "\t\n", "\u200b", "\u0007", "\ufeff \u200e")


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory, bundle_of: BundleOf) -> Any:
    def model_of(name: str) -> Model:
        """The model of a bundle whose tokenizer adds no special tokens."""
        folder = shutil.copytree(bundle_of(name), tmp_path_factory.mktemp("bare") / name)
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
        bundle = load_bundle(folder)
        bundle.manifest = bundle.manifest.model_copy(update={"tokenizer": describe_file(path)})
        return Model(name, bundle.manifest, Tokenizer(bundle))

    return model_of


def ask(model: Model, task: str, inputs: Any, **parameters: Any) -> list[int]:
    """The number of tokens of each sequence."""
    handler = TASKS[task]
    request = handler.request.model_validate({"inputs": inputs, "parameters": parameters})
    return list(map(len, handler.prepare(model, request).sequences))


@pytest.mark.parametrize(
    ("name", "task", "form", "parameters", "place"),
    [
        ("bert-single-label", "classify", lambda text: ["word", text], {}, "inputs[1]"),
        ("bert-single-label", "classify", lambda text: [{"text": text, "text_pair": text}], {}, "inputs[0]"),
        ("bert-regression", "rerank", lambda text: {"query": text, "texts": ["word", text, ""]}, {}, "inputs[0].texts[1]"),
        ("bert-regression", "rerank", lambda text: {"query": text, "texts": ["word", ""]}, {}, "inputs[0].texts[1]"),
        ("bert-next-sentence", "next-sentence", lambda text: {"text": text, "text_pair": text}, {}, "inputs[0]"),
        ("bert-entities", "entities", lambda text: ["word", text], {}, "inputs[1]"),
        ("bert-entities", "entities", lambda text: ["word", text], {"stride": 2}, "inputs[1]"),
        ("bert-answer", "answer", lambda text: {"question": text, "context": text}, {}, "inputs[0]"),
        ("bert-embed", "embed", lambda text: ["word", text], {}, "inputs[1]"),
        ("bert-embed", "similarity", lambda text: {"source_sentence": "word", "sentences": [text]}, {}, "inputs[0]"),
        (
            "bert-nli",
            "zero-shot",
            lambda text: text,
            {"candidate_labels": [" "], "hypothesis_template": "{}"},
            "inputs[0]",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("text", NOTHING)
def test_an_input_without_tokens_is_refused_by_its_place(
    model_of: Any, name: str, task: str, form: Any, parameters: dict[str, Any], place: str, text: str
) -> None:
    with pytest.raises(ValidationFailed, match="no tokens") as refused:
        ask(model_of(name), task, form(text), **parameters)
    assert place in refused.value.message


@pytest.mark.parametrize("text", NOTHING)
def test_half_an_input_without_tokens_is_answered(model_of: Any, text: str) -> None:
    assert ask(model_of("bert-next-sentence"), "next-sentence", {"text": "!", "text_pair": text}) == [1]
    assert ask(model_of("bert-answer"), "answer", {"question": text, "context": "!"}) == [1]
    assert ask(model_of("bert-answer"), "answer", {"question": "!", "context": text}) == [1]


@pytest.mark.parametrize("text", NOTHING)
def test_special_tokens_alone_are_a_sequence(bundle_of: BundleOf, text: str) -> None:
    folder: Path = bundle_of("bert-single-label")
    bundle = load_bundle(folder)
    assert ask(Model("one", bundle.manifest, Tokenizer(bundle)), "classify", text) == [2]
