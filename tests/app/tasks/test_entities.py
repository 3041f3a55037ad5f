"""Labels of tokens to entities. That they are those of the pipeline, tests/oracle holds; here are the rules one by one."""

from typing import Any

import numpy as np
import pytest

from app.bundle.files import load_bundle
from app.errors import ValidationFailed
from app.tasks.base import Model
from app.tasks.catalog import load_model
from app.tasks.entities import EntitiesHandler, EntitiesRequest, without_overlaps
from app.tasks.windows import PreparedWindows
from tests.conftest import BundleOf

TEXT = "The cat sat in Paris."
TOKENS = ["The", "ca", "##t", "s", "##at", "in", "Paris", "."]
LONG = " ".join([TEXT] * 12)


@pytest.fixture(scope="module")
def model(bundle_of: BundleOf) -> Model:
    return load_model(load_bundle(bundle_of("bert-entities")))


@pytest.fixture(scope="module")
def roberta(bundle_of: BundleOf) -> Model:
    return load_model(load_bundle(bundle_of("roberta-entities")))


def asked(inputs: Any, **parameters: Any) -> EntitiesRequest:
    return EntitiesRequest.model_validate({"inputs": inputs, "parameters": parameters})


def prepare(model: Model, inputs: Any, **parameters: Any) -> PreparedWindows:
    return EntitiesHandler().prepare(model, asked(inputs, **parameters))


def answer(model: Model, text: str, labels: list[list[tuple[str, float]]], **parameters: Any) -> list[dict[str, Any]]:
    """The answer if each token has these labels with these scores; the rest is the first label's."""
    request = asked(text, **parameters)
    prepared = EntitiesHandler().prepare(model, request)
    [sequence] = prepared.sequences
    assert len(labels) == len(sequence) - 2
    names = model.manifest.labels
    shares = np.zeros((len(sequence), len(names)))
    for row, chosen in zip(shares[1:], labels, strict=False):
        for name, score in chosen:
            row[names.index(name)] += score
        row[0] += 1 - row.sum()
    logits = np.log(np.maximum(shares, 1e-9)).astype(np.float32)
    [entities] = EntitiesHandler().answer(model, request, prepared, [logits])
    return entities


NONE, B_PER, I_PER, B_LOC, I_LOC = ([(name, 0.8)] for name in ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"))


def groups(entities: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["entity_group"], one["word"]) for one in entities]


def test_the_fixture_has_the_expected_tokens(model: Model) -> None:
    [sequence] = prepare(model, TEXT).sequences
    assert [model.tokenizer.token(id_) for id_ in sequence.input_ids.tolist()] == ["[CLS]", *TOKENS, "[SEP]"]
    assert model.manifest.labels[0] == "O"


def test_neighbours_of_one_label_are_joined(model: Model) -> None:
    entities = answer(model, TEXT, [B_PER, I_PER, I_PER, NONE, NONE, NONE, B_LOC, NONE])
    assert groups(entities) == [("PER", "The cat"), ("LOC", "Paris")]
    assert [(one["start"], one["end"]) for one in entities] == [(0, 7), (15, 20)]
    assert [one["score"] for one in entities] == pytest.approx([0.8, 0.8])


def test_a_score_is_the_mean_of_the_tokens(model: Model) -> None:
    [entity] = answer(model, TEXT, [[("B-PER", 0.9)], [("I-PER", 0.6)], NONE, NONE, NONE, NONE, NONE, NONE])
    assert entity["score"] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([B_PER, B_PER, I_PER], ["The", "cat"]),  # B- begins another
        ([I_PER, I_PER, I_PER], ["The cat"]),  # I- need not follow a B-
        ([B_PER, I_LOC, I_LOC], ["The", "cat"]),  # another kind is another entity
    ],
)
def test_an_entity_ends_at_another_label_or_a_b_tag(model: Model, labels: Any, expected: list[str]) -> None:
    assert [
        word.replace(" ##", "").replace("##", "")
        for _, word in groups(answer(model, TEXT, [*labels, NONE, NONE, NONE, NONE, NONE]))
    ] == expected


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("simple", [("PER", "ca"), ("LOC", "##t")]),
        ("first", [("PER", "cat")]),
        ("max", [("LOC", "cat")]),
        ("average", [("PER", "cat")]),
    ],
)
def test_a_word_has_one_label_by_every_strategy_but_simple(
    model: Model, strategy: str, expected: list[tuple[str, str]]
) -> None:
    mixed = [[("B-PER", 0.7)], [("B-LOC", 0.75), ("B-PER", 0.2)]]
    entities = answer(model, TEXT, [NONE, *mixed, NONE, NONE, NONE, NONE, NONE], aggregation_strategy=strategy)
    assert groups(entities) == expected
    if strategy == "average":
        assert entities[0]["score"] == pytest.approx(0.45)


def test_without_aggregation_every_token_is_returned(model: Model) -> None:
    labels = [B_PER, I_PER, I_PER, NONE, NONE, NONE, B_LOC, NONE]
    tokens = answer(model, TEXT, labels, aggregation_strategy="none")
    assert tokens[1] == {"entity": "I-PER", "score": pytest.approx(0.8), "index": 2, "word": "ca", "start": 4, "end": 6}
    assert [one["word"] for one in tokens] == ["The", "ca", "##t", "Paris"]
    every = answer(model, TEXT, labels, aggregation_strategy="none", ignore_labels=[])
    assert [one["word"] for one in every] == TOKENS
    assert all(TEXT[one["start"] : one["end"]] == one["word"].removeprefix("##") for one in every)


def test_ignored_labels_match_groups_and_without_aggregation_labels(model: Model) -> None:
    labels = [B_PER, I_PER, I_PER, NONE, NONE, NONE, B_LOC, NONE]
    assert groups(answer(model, TEXT, labels, ignore_labels=["PER", "O"])) == [("LOC", "Paris")]
    assert len(answer(model, TEXT, labels, ignore_labels=["B-PER", "O"])) == 2
    tokens = answer(model, TEXT, labels, ignore_labels=["B-PER", "O"], aggregation_strategy="none")
    assert [one["word"] for one in tokens] == ["ca", "##t", "Paris"]


def test_an_unknown_token_keeps_the_words_spelling(model: Model) -> None:
    [token] = answer(model, "\N{GRINNING FACE}", [B_PER], aggregation_strategy="none")
    assert (token["word"], token["start"], token["end"]) == ("\N{GRINNING FACE}", 0, 1)


def test_offsets_count_characters_of_any_size(roberta: Model) -> None:
    text = "\N{GRINNING FACE}\N{GRINNING FACE} Paris"
    [sequence] = prepare(roberta, text).sequences
    labels = roberta.manifest.labels
    logits = np.zeros((len(sequence), len(labels)), np.float32)
    logits[:, labels.index("B-LOC")] = 5
    request = asked(text, aggregation_strategy="first")
    [entities] = EntitiesHandler().answer(roberta, request, EntitiesHandler().prepare(roberta, request), [logits])
    assert (entities[-1]["word"].strip(), entities[-1]["start"], entities[-1]["end"]) == ("Paris", 3, 8)


@pytest.mark.parametrize("text", [" ", "\n", "\u200b"])
@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_a_text_without_a_token_has_no_entities(model: Model, text: str, strategy: str) -> None:
    assert answer(model, text, [], aggregation_strategy=strategy) == []


def test_a_long_text_is_cut_at_the_requested_end(model: Model) -> None:
    [whole] = model.tokenizer.encode_located([LONG], cut=None)
    right, left = prepare(model, LONG), prepare(model, LONG, truncation_direction="left")
    assert right.truncated == left.truncated == 1
    assert [len(one.sequences[0]) for one in (right, left)] == [40, 40]
    assert right.sequences[0].input_ids[:-1].tolist() == whole.input_ids[:39].tolist()
    assert left.sequences[0].input_ids[1:].tolist() == whole.input_ids[-39:].tolist()
    [cut] = model.tokenizer.encode([LONG])
    assert right.sequences[0].input_ids.tolist() == cut.input_ids.tolist()
    # What was cut off has no entity, and what is left says where it stands in the whole text.
    assert left.windows[0][0].offsets[-1].tolist() == [len(LONG) - 1, len(LONG)]


def test_a_long_text_is_read_in_windows(model: Model) -> None:
    prepared = prepare(model, ["The cat", LONG], stride=10)
    assert [len(windows) for windows in prepared.windows] == [1, 4]
    assert (len(prepared.sequences), prepared.truncated) == (5, 0)
    assert prepared.tokens == sum(map(len, prepared.sequences))


def test_an_entity_in_two_windows_is_returned_once(model: Model) -> None:
    request = asked(LONG, stride=10)
    prepared = EntitiesHandler().prepare(model, request)
    paris, labels = model.tokenizer.token_id("Paris"), model.manifest.labels
    results = []
    for sequence in prepared.sequences:
        logits = np.zeros((len(sequence), len(labels)), np.float32)
        logits[:, 0] = 5
        logits[sequence.input_ids == paris, labels.index("B-LOC")] = 10
        results.append(logits)
    assert sum((sequence.input_ids == paris).sum() for sequence in prepared.sequences) > 12
    [entities] = EntitiesHandler().answer(model, request, prepared, results)
    assert [(one["start"], one["end"]) for one in entities] == [(15 + 22 * i, 20 + 22 * i) for i in range(12)]


def entity(start: int, end: int, score: float = 0.5) -> dict[str, Any]:
    return {"start": start, "end": end, "score": score}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], []),
        ([entity(0, 3), entity(3, 5)], [entity(0, 3), entity(3, 5)]),
        ([entity(3, 5), entity(0, 3)], [entity(0, 3), entity(3, 5)]),
        ([entity(0, 3), entity(1, 5)], [entity(1, 5)]),  # the longer one
        ([entity(0, 3, 0.5), entity(0, 3, 0.6)], [entity(0, 3, 0.6)]),  # of equals the more certain one
        ([entity(0, 3), entity(2, 5, 0.1), entity(4, 6)], [entity(0, 3), entity(4, 6)]),
        ([entity(1, 1), entity(2, 6)], [entity(1, 1), entity(2, 6)]),  # a token of no width is told once, too
    ],
)
def test_of_overlapping_entities_the_longest_is_kept(
    found: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    assert without_overlaps(found) == expected


@pytest.mark.parametrize(
    ("inputs", "parameters", "says"),
    [
        (["a", LONG], {"truncation": False}, r"inputs\[1\] has more than 40 tokens.*parameters.stride"),
        ("a", {"stride": 38}, r"parameters.stride: must be less than 38"),
        ("a", {"stride": 3, "aggregation_strategy": "none"}, r"parameters.stride: .*aggregation_strategy none"),
        (LONG * 60, {"stride": 37}, r"make \d+ windows; at most 4096"),
    ],
)
def test_unanswerable_requests_are_refused(model: Model, inputs: Any, parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationFailed, match=says):
        prepare(model, inputs, **parameters)


def test_the_weight_is_the_number_of_tokens(model: Model) -> None:
    request = asked(["The cat", LONG], stride=10)
    prepared = EntitiesHandler().prepare(model, request)
    assert EntitiesHandler().weight(model, request, prepared) == prepared.tokens
