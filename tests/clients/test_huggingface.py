"""`huggingface_hub`'s clients, given the URL of a model as it is, get the answers that transformers gives."""

import asyncio
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from tests.clients.conftest import KEY, TOLERANCE, answers, code_of_page
from tests.support import ServerProcess

TEXT = "I love this product"

Call = tuple[Sequence[Any], Mapping[str, Any]]
Ask = Callable[..., list[Any]]


def ask_sync(url: str, method: str, calls: Sequence[Call], **made_with: Any) -> list[Any]:
    client = InferenceClient(model=url, **made_with)
    return [getattr(client, method)(*arguments, **parameters) for arguments, parameters in calls]


def ask_async(url: str, method: str, calls: Sequence[Call], **made_with: Any) -> list[Any]:
    async def main() -> list[Any]:
        async with AsyncInferenceClient(base_url=url, **made_with) as client:
            asked = [getattr(client, method)(*arguments, **parameters) for arguments, parameters in calls]
            return await asyncio.gather(*asked)

    return asyncio.run(main())


@pytest.fixture(params=[ask_sync, ask_async], ids=["InferenceClient-model", "AsyncInferenceClient-base_url"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Call a method of a client for a URL several times."""
    return request.param


def same(got: Any, expected: Any) -> bool:
    """Whether a client's answer is the stored one. What a client adds is None."""
    if isinstance(expected, dict):
        return all(same(got.get(key), expected.get(key)) for key in {*got, *expected})
    if isinstance(expected, list):
        return len(got) == len(expected) and all(map(same, got, expected))
    return got == (pytest.approx(expected, rel=TOLERANCE, abs=TOLERANCE) if isinstance(expected, float) else expected)


def check(
    ask: Ask,
    url: str,
    method: str,
    name: str,
    *,
    arguments: Callable[[Any], Sequence[Any]] = lambda given: (given,),
    names: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
    shape: Callable[[Any], Any] = lambda prediction: prediction,
) -> None:
    """Ask for every stored answer whose parameters the client has, and compare."""
    calls: list[Call] = []
    expected = []
    for case in answers(name)["cases"]:
        for answer in case["answers"]:
            parameters = {(names or {}).get(key, key): value for key, value in answer["parameters"].items()}
            if method == "feature_extraction" or "truncation_direction" not in parameters:
                calls.append((arguments(case["input"]), {**(defaults or {}), **parameters}))
                expected.append(shape(answer["prediction"]))
    assert calls
    got = ask(url, method, calls)
    assert [i for i, (one, other) in enumerate(zip(got, expected, strict=True)) if not same(one, other)] == []


@pytest.mark.parametrize("name", ["bert-single-label", "bert-multi-label", "demo-classify"])
def test_text_classification(server: ServerProcess, ask: Ask, name: str) -> None:
    check(ask, f"{server.url}/models/{name}", "text_classification", name)


def test_text_classification_of_next_sentences(server: ServerProcess, ask: Ask) -> None:
    def labels(prediction: Any) -> Any:
        pair = {"IS_NEXT": prediction["score"], "NOT_NEXT": 1 - prediction["score"]}
        return [{"label": label, "score": pair[label]} for label in sorted(pair, key=pair.__getitem__, reverse=True)]

    name = "bert-next-sentence"
    check(ask, f"{server.url}/models/{name}", "text_classification", name, shape=labels)


def test_token_classification(server: ServerProcess, ask: Ask) -> None:
    check(ask, f"{server.url}/models/bert-entities", "token_classification", "bert-entities")


@pytest.mark.parametrize("name", ["bert-fill-mask", "demo-fill-mask"])
def test_fill_mask(server: ServerProcess, ask: Ask, name: str) -> None:
    def flat(prediction: Any) -> Any:
        return prediction[0] if len(prediction) == 1 else prediction

    check(ask, f"{server.url}/models/{name}", "fill_mask", name, shape=flat)


def test_question_answering(server: ServerProcess, ask: Ask) -> None:
    check(
        ask,
        f"{server.url}/models/bert-answer",
        "question_answering",
        "bert-answer",
        arguments=lambda given: (given["question"], given["context"]),
        names={"max_answer_length": "max_answer_len", "stride": "doc_stride"},
        shape=lambda prediction: prediction[0] if len(prediction) == 1 else prediction,
    )


def test_zero_shot_classification(server: ServerProcess, ask: Ask) -> None:
    check(ask, f"{server.url}/models/bert-nli", "zero_shot_classification", "bert-nli")


@pytest.mark.parametrize("name", ["bert-embed", "bert-embed-dense"])
def test_feature_extraction(server: ServerProcess, ask: Ask, name: str) -> None:
    stored: list[tuple[dict[str, Any], str, list[float]]] = [
        (answer["parameters"], case["input"], answer["prediction"])
        for case in answers(name)["cases"]
        for answer in case["answers"]
        if "input_type" not in answer["parameters"]
    ]
    for parameters in [one for i, (one, *_) in enumerate(stored) if one not in [other for other, *_ in stored[:i]]]:
        chosen = [(text, embedding) for one, text, embedding in stored if one == parameters]
        texts = [text for text, _ in chosen]
        [matrix, vector] = ask(
            f"{server.url}/models/{name}", "feature_extraction", [((texts,), parameters), ((texts[0],), parameters)]
        )
        assert matrix.dtype == "float32"
        assert same(matrix.tolist(), [embedding for _, embedding in chosen])
        assert vector.tolist() == matrix[0].tolist()


def test_sentence_similarity(server: ServerProcess, ask: Ask) -> None:
    cases = [case for case in answers("bert-embed")["cases"] if {} in [one["parameters"] for one in case["answers"]]]
    units = [[number / math.hypot(*one["embedding"]) for number in one["embedding"]] for one in cases]
    cosines = [sum(map(operator.mul, units[0], unit)) for unit in units]
    texts = [one["input"] for one in cases]
    [got] = ask(f"{server.url}/models/bert-embed", "sentence_similarity", [((texts[0], texts), {})])
    assert same(got, cosines)


def test_the_url_of_the_server_will_do_where_a_model_fits_or_is_the_default(server: ServerProcess, ask: Ask) -> None:
    question = ("Where?", "Paris")
    for method, arguments, name in (
        ("question_answering", question, "bert-answer"),
        ("text_classification", ({"text": TEXT, "text_pair": TEXT},), "bert-single-label"),
    ):
        calls: list[Call] = [(arguments, {})]
        assert ask(server.url, method, calls) == ask(f"{server.url}/models/{name}", method, calls)


def test_the_key_is_the_token(locked: ServerProcess, ask: Ask) -> None:
    url = f"{locked.url}/models/bert-single-label"
    [labels] = ask(url, "text_classification", [((TEXT,), {})], token=KEY)
    assert len(labels) == 3
    assert ask(url, "health_check", [((), {})], token=KEY, provider="hf-inference") == [True]
    with pytest.raises(HfHubHTTPError) as caught:
        ask(url, "text_classification", [((TEXT,), {})], token="wrong")
    assert caught.value.response.status_code == 401


@pytest.mark.parametrize(("path", "is_healthy"), [("", True), ("/models/bert-embed", True), ("/models/nowhere", False)])
def test_health_check(server: ServerProcess, ask: Ask, path: str, *, is_healthy: bool) -> None:
    checked = ask(f"{server.url}{path}", "health_check", [((), {})], provider="hf-inference")
    assert checked == [is_healthy]


def test_get_endpoint_info(server: ServerProcess, ask: Ask) -> None:
    [told] = ask(f"{server.url}/models/bert-embed", "get_endpoint_info", [((), {})], provider="hf-inference")
    assert told["model_id"] == "bert-embed"


@pytest.mark.parametrize(
    ("name", "parameters", "status", "says"),
    [
        ("nowhere", {}, 404, "There is no such model"),
        ("bert-single-label", {"top_k": 0}, 422, "parameters.top_k: input should be greater than or equal to 1"),
        ("bert-answer", {}, 422, "inputs: should be"),
    ],
)
def test_an_error_raises_the_clients_exception_with_the_servers_message(
    server: ServerProcess, ask: Ask, name: str, parameters: Any, status: int, says: str
) -> None:
    call = partial(ask, f"{server.url}/models/{name}", "text_classification", [((TEXT,), parameters)])
    with pytest.raises(HfHubHTTPError) as caught:
        call()
    assert caught.value.response.status_code == status
    assert says in str(caught.value)


def test_the_code_of_the_page_runs(server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    exec(code_of_page("from huggingface_hub", server), {})
    assert "TextClassificationOutputElement" in capsys.readouterr().out
