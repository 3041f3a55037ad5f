"""Explanations over a real socket, held to what the routes that they explain answer."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ModelsOf
from tests.e2e.conftest import Device, ServeFaulty
from tests.support import Reply, ServerProcess, eventually, serving

MODELS = {
    "classify": "bert-single-label",
    "two-labels": "distilbert-two-labels",
    "regression": "bert-regression",
    "fill-mask": "bert-fill-mask",
    "next-sentence": "bert-next-sentence",
    "entities": "bert-entities",
    "rerank": "roberta-rerank",
    "embed": "bert-embed",
}
TEXT = "The cat sat on the mat in Paris."
CLOSE = 1e-9
"""The same float32 numbers, of which both routes make scores in float64."""


@pytest.fixture(scope="module")
def models(models_of: ModelsOf) -> Path:
    return models_of(MODELS)


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[ServerProcess]:
    with serving(models, "--threads", "1") as server:
        yield server
        assert server.stop() == 0, server.log


def post(server: ServerProcess, model: str, inputs: Any, **parameters: Any) -> Reply:
    return server.post("/v1/explain", {"model": model, "inputs": inputs, "parameters": parameters})


def explained(server: ServerProcess, model: str, inputs: Any, **parameters: Any) -> dict[str, Any]:
    reply = post(server, model, inputs, **parameters)
    assert reply.status == 200, reply.body
    [prediction] = reply.json["predictions"]
    return prediction


def refusal(server: ServerProcess, model: str, inputs: Any, **parameters: Any) -> str:
    reply = post(server, model, inputs, **parameters)
    assert reply.status == 422, reply.body
    return reply.error


def predicted(server: ServerProcess, task: str, model: str, inputs: Any, **parameters: Any) -> Any:
    reply = server.post(f"/v1/{task}", {"model": model, "inputs": inputs, "parameters": parameters})
    assert reply.status == 200, reply.body
    return reply.json["predictions"]


def score_of(labels: list[dict[str, Any]], label: str) -> float:
    return next(one["score"] for one in labels if one["label"] == label)


def without(text: str, word: dict[str, Any], instead: str) -> str:
    """The text as a caller would write it without a word."""
    return text[: word["start"]] + instead + text[word["end"] :]


def contributions(explanation: dict[str, Any]) -> list[float]:
    return [one["contribution"] for one in explanation["contributions"]]


def assert_complete(explanation: dict[str, Any]) -> None:
    """Everything adds up, and what Shapley leaves over is rounding."""
    total = sum(contributions(explanation)) + explanation["remainder"]
    assert total == pytest.approx(explanation["score"] - explanation["baseline_score"], abs=CLOSE)
    if explanation["method"] == "shapley":
        assert explanation["remainder"] == pytest.approx(0, abs=CLOSE)


def test_the_best_label_is_explained_with_its_score(server: ServerProcess) -> None:
    [[best, *_]] = predicted(server, "classify", "classify", [TEXT])
    explanation = explained(server, "classify", TEXT)
    assert explanation["target"] == best["label"]
    assert explanation["score"] == pytest.approx(best["score"], abs=CLOSE)
    assert "".join(one["word"] for one in explanation["contributions"]) == TEXT.replace(" ", "")
    assert all(one["word"] == TEXT[one["start"] : one["end"]] for one in explanation["contributions"])
    assert (explanation["start"], explanation["end"], explanation["stopped"]) == (None, None, "complete")
    assert explanation["runs"] == len(explanation["contributions"]) + 2
    assert_complete(explanation)


@pytest.mark.parametrize("label", ["négatif", "neutral", "positive"])
def test_a_contribution_is_what_the_label_loses_without_the_word(server: ServerProcess, label: str) -> None:
    """Removed words are those that a caller would leave out, whatever tokens they had."""
    explanation = explained(server, "classify", TEXT, target=label, perturbation="remove")
    [whole] = predicted(server, "classify", "classify", TEXT)
    for word in explanation["contributions"]:
        [labels] = predicted(server, "classify", "classify", without(TEXT, word, ""))
        lost = score_of(whole, label) - score_of(labels, label)
        assert word["contribution"] == pytest.approx(lost, abs=CLOSE), word


def test_a_masked_word_is_masks_as_many_as_its_tokens(server: ServerProcess) -> None:
    text = "The good [MASK]."
    explanation = explained(server, "fill-mask", text, target="the")
    [[whole]] = predicted(server, "fill-mask", "fill-mask", text, targets=["the"])
    [word] = [one for one in explanation["contributions"] if one["word"] == "good"]
    masked = [
        predicted(server, "fill-mask", "fill-mask", without(text, word, " ".join(["[MASK]"] * count)), targets=["the"])
        for count in (1, 2, 3, 4)
    ]
    lost = [whole[0]["score"] - masks[-1][0]["score"] for [masks] in masked]
    assert any(word["contribution"] == pytest.approx(one, abs=CLOSE) for one in lost)
    assert [one["word"] for one in explanation["contributions"]] == ["The", "good", "."]


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
def test_the_score_is_of_the_function_that_is_asked_for(server: ServerProcess, function: str) -> None:
    explanation = explained(server, "two-labels", TEXT, function_to_apply=function)
    [labels] = predicted(server, "classify", "two-labels", TEXT, function_to_apply=function)
    assert explanation["score"] == pytest.approx(labels[0]["score"], abs=CLOSE)
    assert explanation["target"] == labels[0]["label"]


def test_a_regression_is_explained_by_its_number(server: ServerProcess) -> None:
    explanation = explained(server, "regression", TEXT, method="shapley", max_runs=400)
    [[best]] = predicted(server, "classify", "regression", TEXT)
    assert explanation["score"] == pytest.approx(best["score"], abs=CLOSE)
    assert_complete(explanation)


def test_a_pair_is_explained_by_the_words_of_both_texts(server: ServerProcess) -> None:
    pair = {"text": "The cat sat.", "text_pair": "It was warm."}
    explanation = explained(server, "classify", pair, method="shapley", max_runs=300)
    assert [(one["field"], one["word"]) for one in explanation["contributions"]] == [
        *(("text", word) for word in ("The", "cat", "sat", ".")),
        *(("text_pair", word) for word in ("It", "was", "warm", ".")),
    ]
    assert all(one["word"] == pair[one["field"]][one["start"] : one["end"]] for one in explanation["contributions"])
    assert_complete(explanation)


def test_the_best_candidate_of_a_mask_is_explained_with_its_score(server: ServerProcess) -> None:
    text = "The [MASK] sat on the [MASK]."
    [masks] = predicted(server, "fill-mask", "fill-mask", text)
    for number, candidates in enumerate(masks):
        explanation = explained(server, "fill-mask", text, mask_index=number, method="shapley", max_runs=200)
        assert explanation["target"] == candidates[0]["token_str"]
        assert explanation["score"] == pytest.approx(candidates[0]["score"], abs=CLOSE)
        assert text[explanation["start"] : explanation["end"]] == "[MASK]"
        assert explanation["start"] == (4 if number == 0 else 22)
        assert [one["word"] for one in explanation["contributions"]] == ["The", "sat", "on", "the", "."]
        assert_complete(explanation)


def test_a_candidate_is_explained_also_when_words_before_its_mask_are_removed(server: ServerProcess) -> None:
    text = "The cat sat on the [MASK]."
    explanation = explained(server, "fill-mask", text, target="the", perturbation="remove")
    for word in explanation["contributions"]:
        [[whole]], [[less]] = (
            predicted(server, "fill-mask", "fill-mask", one, targets=["the"]) for one in (text, without(text, word, ""))
        )
        lost = whole[0]["score"] - less[0]["score"]
        assert word["contribution"] == pytest.approx(lost, abs=CLOSE)


def test_next_sentence_is_explained_by_the_probability_that_the_second_continues_the_first(
    server: ServerProcess,
) -> None:
    pair = {"text": "It rained.", "text_pair": "She went home."}
    explanation = explained(server, "next-sentence", pair, perturbation="remove")
    [whole] = predicted(server, "next-sentence", "next-sentence", pair)
    assert explanation["target"] == "is_next"
    assert explanation["score"] == pytest.approx(whole["score"], abs=CLOSE)
    for word in explanation["contributions"]:
        field = word["field"]
        [less] = predicted(server, "next-sentence", "next-sentence", pair | {field: without(pair[field], word, "")})
        assert word["contribution"] == pytest.approx(whole["score"] - less["score"], abs=CLOSE)


def test_a_ranked_text_is_explained_with_its_score(server: ServerProcess) -> None:
    pair = {"text": "Where is the cat?", "text_pair": "The cat is in Paris."}
    explanation = explained(server, "rerank", pair, method="shapley", max_runs=300)
    [[ranked]] = predicted(server, "rerank", "rerank", {"query": pair["text"], "texts": [pair["text_pair"]]})
    assert explanation["score"] == pytest.approx(ranked["score"], abs=CLOSE)
    assert explanation["target"] is None
    assert_complete(explanation)


def test_the_best_entity_is_explained_by_all_words_also_its_own(server: ServerProcess) -> None:
    [entities] = predicted(server, "entities", "entities", TEXT)
    best = max(entities, key=lambda one: one["score"])
    explanation = explained(server, "entities", TEXT)
    assert (explanation["start"], explanation["end"]) == (best["start"], best["end"])
    assert explanation["target"] == best["entity_group"]
    assert len(explanation["contributions"]) == 9
    assert_complete(explanation)


def test_a_span_is_explained_by_the_probability_of_its_group(server: ServerProcess) -> None:
    """Of a word that is one token, the sum of the probabilities of its group's labels."""
    [tokens] = predicted(server, "entities", "entities", TEXT, aggregation_strategy="none", ignore_labels=[])
    [token] = [one for one in tokens if TEXT[one["start"] : one["end"]] == "Paris"]
    groups = {
        group: explained(server, "entities", TEXT, target=group, start=token["start"], end=token["end"])["score"]
        for group in ("PER", "LOC", "O")
    }
    best = explained(server, "entities", TEXT, start=token["start"], end=token["end"])
    assert best["target"] == max(groups, key=lambda group: groups[group])
    assert sum(groups.values()) <= 1 + CLOSE
    part = explained(server, "entities", TEXT, start=token["end"] - 1, end=len(TEXT) - 1)
    assert (part["start"], part["end"]) == (token["start"], token["end"])  # of whole tokens
    assert max(groups.values()) >= token["score"] - CLOSE


def test_several_inputs_are_explained_as_each_alone(server: ServerProcess) -> None:
    texts = [TEXT, "good", {"text": "good", "text_pair": "It is bad, isn't it?"}, "So so so so so so so so so."]
    for parameters in ({}, {"method": "shapley", "max_runs": 120, "standard_error": 0.001}):
        reply = post(server, "classify", texts, **parameters)
        alone = [post(server, "classify", text, **parameters) for text in texts]
        assert reply.json["predictions"] == [one.json["predictions"][0] for one in alone]
        assert reply.json["usage"]["tokens"] == sum(one.json["usage"]["tokens"] for one in alone)


def test_the_runs_and_their_tokens_are_counted(server: ServerProcess) -> None:
    before = server.metric("bert_tokens_total", model="classify")
    reply = post(server, "classify", TEXT, method="shapley", max_runs=500, standard_error=1e-6)
    [explanation] = reply.json["predictions"]
    ran = server.metric("bert_tokens_total", model="classify") - before
    assert explanation["stopped"] == "max_runs"
    assert explanation["runs"] <= 500
    assert ran == reply.json["usage"]["tokens"]
    told = server.told(reply.headers["x-request-id"])
    assert (told["task"], told["sequences"]) == ("explain", explanation["runs"])


def test_it_stops_as_soon_as_the_numbers_are_exact_enough(server: ServerProcess) -> None:
    explanation = explained(server, "classify", TEXT, method="shapley", standard_error=0.05)
    assert explanation["stopped"] == "standard_error"
    assert all(one["standard_error"] <= 0.05 for one in explanation["contributions"])


def test_a_text_that_is_too_long_is_explained_as_far_as_it_is_read(server: ServerProcess) -> None:
    reply = post(server, "classify", "good cat " * 100)
    [explanation] = reply.json["predictions"]
    assert reply.json["usage"]["truncated"] == 1
    assert len(explanation["contributions"]) < 40
    assert "more than 40 tokens" in refusal(server, "classify", "good cat " * 100, truncation=False)
    assert "more than 40 tokens" in refusal(server, "fill-mask", "[MASK] cat " * 100)


@pytest.mark.parametrize(
    ("model", "inputs", "parameters", "expected"),
    [
        ("classify", TEXT, {"target": "blue"}, "parameters.target: this model has no such label. It has: négatif, neutral, positive."),
        ("entities", TEXT, {"target": "blue"}, "parameters.target: this model has no such group of labels. It has: O, PER, LOC"),
        ("fill-mask", "The [MASK].", {"target": "not one token"}, "parameters.target: is not a single token"),
        ("fill-mask", "The [MASK].", {"mask_index": 1}, "parameters.mask_index: inputs[0] has 1 masks"),
        ("fill-mask", "The cat.", {}, "inputs[0] has no mask token; write [MASK]"),
        ("fill-mask", {"text": "a [MASK]", "text_pair": "b"}, {}, "inputs[0]: this model reads single texts"),
        ("entities", {"text": "a", "text_pair": "b"}, {}, "inputs[0]: this model reads single texts"),
        ("next-sentence", ["a"], {}, "inputs[0]: this model reads pairs"),
        ("next-sentence", {"text": "a", "text_pair": "b"}, {"target": "a"}, "parameters.target: is for classify and fill-mask and"),
        ("classify", TEXT, {"start": 0, "end": 3}, "parameters.end: is for entities, and this model does classify"),
        ("entities", TEXT, {"start": 0}, "parameters.start and parameters.end: send both"),
        ("entities", TEXT, {"start": 500, "end": 510}, "parameters.start and parameters.end: the model reads no token of inputs[0] there"),
        ("entities", TEXT, {"perturbation": "remove"}, "parameters.perturbation: an entity whose words are removed"),
        ("rerank", "Where?", {}, "inputs[0]: this model ranks texts by a query"),
        ("rerank", {"text": "a", "text_pair": "b"}, {"function_to_apply": "softmax"}, "Send sigmoid or none"),
        ("classify", TEXT, {"seed": 1}, "parameters.seed: is for shapley"),
        ("classify", TEXT, {"max_runs": 10}, "parameters.max_runs: inputs[0] has 9 words, for which occlusion takes 11 runs"),
        ("classify", TEXT, {"max_runs": 17, "method": "shapley"}, "for which shapley takes 18 runs or more"),
        ("classify", TEXT, {"method": "lime"}, "parameters.method"),
        ("classify", TEXT, {"standard_error": 0, "method": "shapley"}, "parameters.standard_error"),
        ("classify", "   ", {}, "inputs[0] has no word that could be left out"),
        ("fill-mask", "[MASK]", {}, "inputs[0] has no word that could be left out"),
    ],
)  # fmt: skip
def test_what_cannot_be_explained_is_refused_with_the_reason(
    server: ServerProcess, model: str, inputs: Any, parameters: dict[str, Any], expected: str
) -> None:
    assert expected in refusal(server, model, inputs, **parameters)


def test_a_model_of_another_task_is_not_explained(server: ServerProcess) -> None:
    reply = post(server, "embed", TEXT)
    assert reply.status == 404
    assert "That model does embed, not explain" in reply.error


def test_when_time_is_nearly_over_an_explanation_ends_with_what_it_has(
    serve_faulty: ServeFaulty, device: Device
) -> None:
    with serve_faulty("--request-timeout-s", "2") as server:
        device.slow_down(0.2)
        parameters = {"method": "shapley", "standard_error": 1e-6, "max_runs": 10_000}
        reply = server.post("/v1/explain", {"inputs": f"{TEXT} {TEXT}", "parameters": parameters})
        assert reply.status == 200, reply.body
        [explanation] = reply.json["predictions"]
        assert explanation["stopped"] == "time"
        assert 200 < explanation["runs"] < 3000
        assert_complete(explanation)
        eventually(lambda: server.metric("bert_queue_sequences") == 0)
        assert server.metric("bert_inflight_requests") == 0


def test_an_explanation_whose_first_round_is_late_is_an_error(serve_faulty: ServeFaulty, device: Device) -> None:
    with ThreadPoolExecutor(1) as threads, serve_faulty("--request-timeout-s", "0.3") as server:
        device.hold()
        reply = threads.submit(server.post, "/v1/explain", {"inputs": TEXT}).result()
        assert reply.status == 504
        assert reply.json["error_type"] == "deadline_exceeded"
        device.release()


@pytest.mark.parametrize("count", [1, 8], ids=["in the engine", "in a thread"])
def test_more_runs_than_there_is_time_for_are_refused_before_they_run(
    serve_faulty: ServeFaulty, device: Device, count: int
) -> None:
    device.slow_down(0.1)  # for 64 tokens, as the start measures
    with serve_faulty("--request-timeout-s", "1", "--batch-tokens", "64") as server:
        reply = server.post("/v1/explain", {"inputs": ["the cat sat on the mat " * 9] * count})
        assert reply.status == 422
        assert "runs of the model, of" in reply.error
        assert server.metric("bert_rejected_total", reason="overloaded") == 0
