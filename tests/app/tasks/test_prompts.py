"""The prompt before a text: which one, and where whitespace goes."""

from typing import Any

import pytest

from app.bundle.files import load_bundle
from app.errors import ValidationFailed
from app.tasks.base import Model
from app.tasks.catalog import load_model
from app.tasks.embed import EmbedHandler, EmbedRequest
from app.tasks.prompts import PromptParameters, prepare_texts, prompt_of
from tests.conftest import BundleOf

PROMPTS = {"query": "search: ", "document": "text: ", "topic": "topic: "}


@pytest.fixture(scope="module")
def plain(bundle_of: BundleOf) -> Model:
    """A model without prompts, whose tokenizer keeps all whitespace."""
    return load_model(load_bundle(bundle_of("roberta-embed")))


def having(model: Model, prompts: dict[str, str] | None, default: str | None = None, **changes: Any) -> Model:
    changes |= {"prompts": prompts, "default_prompt_name": default}
    return Model(model.name, model.manifest.model_copy(update=changes), model.tokenizer)


@pytest.mark.parametrize(
    ("prompts", "default", "parameters", "expected"),
    [
        (PROMPTS, None, {}, ""),
        (PROMPTS, "topic", {}, "topic: "),
        (PROMPTS, "topic", {"prompt_name": "query"}, "search: "),
        (PROMPTS, "topic", {"prompt_name": ""}, ""),
        (PROMPTS, "topic", {"input_type": "query"}, "search: "),
        (PROMPTS, "topic", {"input_type": "document"}, "text: "),
        (
            {"query": "search: ", "passage": "passage: ", "corpus": "corpus: "},
            None,
            {"input_type": "document"},
            "passage: ",
        ),
        ({"query": "search: ", "corpus": "corpus: "}, None, {"input_type": "document"}, "corpus: "),
        ({"query": "search: ", "document": "", "passage": "passage: "}, None, {"input_type": "document"}, ""),
        # As encode_query and encode_document: the default prompt is not for them.
        ({"topic": "topic: "}, "topic", {"input_type": "query"}, ""),
        ({"topic": "topic: "}, "topic", {"input_type": "document"}, ""),
        (None, None, {}, ""),
        (None, None, {"input_type": "query"}, ""),
        (None, None, {"prompt_name": ""}, ""),
    ],
)
def test_the_prompt_is_chosen_as_in_sentence_transformers(
    plain: Model, prompts: dict[str, str] | None, default: str | None, parameters: dict[str, Any], expected: str
) -> None:
    model = having(plain, prompts, default)
    assert prompt_of(model.manifest, PromptParameters.model_validate(parameters)) == expected


@pytest.mark.parametrize(
    ("prompts", "parameters", "says"),
    [
        (PROMPTS, {"prompt_name": "secret"}, "no such prompt; its prompts are: query, document, topic"),
        (None, {"prompt_name": "secret"}, "no such prompt; its prompts are: none"),
        (PROMPTS, {"prompt_name": "query", "input_type": "query"}, "both choose a prompt; send only one"),
    ],
)
def test_a_prompt_that_cannot_be_chosen_is_refused_by_name(
    plain: Model, prompts: dict[str, str] | None, parameters: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValidationFailed, match=says) as refused:
        prompt_of(having(plain, prompts).manifest, PromptParameters.model_validate(parameters))
    assert "secret" not in refused.value.message


@pytest.mark.parametrize("strips", [True, False])
def test_whitespace_is_stripped_around_prompt_and_text_together(plain: Model, strips: bool) -> None:
    """As sentence-transformers before 5.4 does: what is between the two stays."""
    model = having(plain, {"query": " search: "}, "query", strips_whitespace=strips)
    [got] = prepare_texts(model, [" good day\n"], PromptParameters()).sequences
    together = "search:  good day" if strips else " search:  good day\n"
    bare = having(plain, None, strips_whitespace=False)
    [expected] = prepare_texts(bare, [together], PromptParameters()).sequences
    assert got.input_ids.tolist() == expected.input_ids.tolist()


def test_a_prompt_counts_for_the_length_and_is_cut_with_its_text(plain: Model) -> None:
    model = having(plain, {"query": "good day " * 100}, "query")
    prepared = prepare_texts(model, ["a"], PromptParameters())
    assert (prepared.tokens, prepared.truncated) == (model.manifest.max_length, 1)
    with pytest.raises(ValidationFailed, match=r"^inputs\[0\] has more than 40 tokens"):
        prepare_texts(model, ["a"], PromptParameters(truncation=False))


def test_a_prompt_before_many_texts_is_not_tokenized_on_the_event_loop(plain: Model) -> None:
    request = EmbedRequest.model_validate({"inputs": ["a"] * 300})
    body_bytes = len(request.model_dump_json())
    bare, prompted = having(plain, None), having(plain, {"query": "x" * 100}, "query")
    assert EmbedHandler().bytes_to_prepare(bare, request, body_bytes) == body_bytes < EmbedHandler.short_bytes
    assert (
        EmbedHandler().bytes_to_prepare(prompted, request, body_bytes) == body_bytes + 30_000 > EmbedHandler.short_bytes
    )
