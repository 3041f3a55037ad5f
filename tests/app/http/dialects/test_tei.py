"""text-embeddings-inference's routes, as they come over the wire."""

from collections.abc import Iterator
from typing import Any

import pytest

from app.errors import DeadlineExceeded, EngineLost, Internal, NotReady, Overloaded, ServiceError
from app.http.api import Limits, Served, render_for
from app.http.dialects.tei import API
from app.http.readiness import Readiness
from app.tasks.catalog import Catalog
from tests.conftest import BundleOf, ModelsOf
from tests.support import Reply, ServerProcess, serving

KEY = "s3cret"
MAX_INPUTS = 8
TEXTS = ["The cat sat on the mat.", "  Good  morning ", "東京"]
LONG = " ".join(["the", "cat", "sat", "on", "a", "mat", "and", "saw", "the", "dog"] * 6)
MODELS = {
    "sentiment": "bert-single-label",
    "toxicity": "bert-multi-label",
    "ranker": "distilbert-one-label",
    "mean": "bert-embed",
    "prompted": "bert-embed-dense",
    "first": "distilbert-embed-cls",
    "masked": "bert-fill-mask",
    "multilingual": "xlm-roberta-entities",
    "byte-level": "roberta-entities",
}


@pytest.fixture(scope="module")
def server(models_of: ModelsOf) -> Iterator[ServerProcess]:
    arguments = (
        "--threads",
        "1",
        "--max-inputs",
        str(MAX_INPUTS),
        "--default-models",
        "embed=first,similarity=mean,classify=sentiment",
    )
    with serving(models_of(MODELS), *arguments, BERT_API_KEY=KEY) as server:
        yield server
        assert server.stop() == 0, server.log
        assert "cat" not in server.log


def ask(server: ServerProcess, path: str, body: Any, key: str = f"Bearer {KEY}") -> Reply:
    return server.post(path, body, authorization=key)


def answer(server: ServerProcess, path: str, body: Any) -> Any:
    reply = ask(server, path, body)
    assert reply.status == 200, reply.body
    return reply.json


def native(server: ServerProcess, task: str, model: str, inputs: Any, **parameters: Any) -> Any:
    return answer(server, f"/v1/{task}", {"model": model, "inputs": inputs, "parameters": parameters})["predictions"]


@pytest.mark.parametrize("count", [1, 3, MAX_INPUTS])
def test_embeddings_have_unit_length_unless_asked_otherwise(server: ServerProcess, count: int) -> None:
    texts = (TEXTS * count)[:count]
    for model in ("mean", "first"):
        expected = native(server, "embed", model, texts, normalize=True)
        assert answer(server, f"/models/{model}/embed", {"inputs": texts}) == expected
        raw = native(server, "embed", model, texts, normalize=False)
        assert answer(server, f"/models/{model}/embed", {"inputs": texts, "normalize": False}) == raw


def test_one_text_gives_a_list_of_one_embedding(server: ServerProcess) -> None:
    [alone] = answer(server, "/embed", {"inputs": TEXTS[0]})
    assert [alone] == answer(server, "/embed", {"inputs": [TEXTS[0]]})


def test_embeddings_are_cut_and_their_texts_prompted(server: ServerProcess) -> None:
    body = {"inputs": TEXTS, "dimensions": 5, "prompt_name": "query"}
    expected = native(server, "embed", "prompted", TEXTS, normalize=True, dimensions=5, prompt_name="query")
    assert answer(server, "/models/prompted/embed", body) == expected
    by_default = native(server, "embed", "prompted", TEXTS, normalize=True)
    assert answer(server, "/models/prompted/embed", {"inputs": TEXTS}) == by_default


def test_texts_are_ranked_by_sigmoids_or_logits(server: ServerProcess) -> None:
    asked = {"query": "Where is the cat?", "texts": [*TEXTS, ""]}
    for raw, function in ((False, "sigmoid"), (True, "none")):
        [ranks] = native(server, "rerank", "ranker", asked, function_to_apply=function)
        assert answer(server, "/rerank", asked | {"raw_scores": raw}) == ranks
        with_texts = [rank | {"text": asked["texts"][rank["index"]]} for rank in ranks]
        assert answer(server, "/models/ranker/rerank", asked | {"raw_scores": raw, "return_text": True}) == with_texts
    [cut] = native(server, "rerank", "ranker", {"query": "Good", "texts": [LONG, "a"]}, truncation_direction="left")
    assert answer(server, "/rerank", {"query": "Good", "texts": [LONG, "a"], "truncation_direction": "Left"}) == cut
    headers = ask(server, "/rerank", {"query": "Good", "texts": ["one", "三"]}).headers
    assert headers["x-compute-characters"] == str(2 * 4 + 3 + 1)


def test_similarities_are_cosines(server: ServerProcess) -> None:
    inputs = {"source_sentence": TEXTS[0], "sentences": TEXTS}
    [expected] = native(server, "similarity", "mean", inputs)
    assert answer(server, "/similarity", {"inputs": inputs}) == expected
    assert expected[0] == pytest.approx(1)
    [prompted] = native(server, "similarity", "prompted", inputs, prompt_name="query", truncation_direction="left")
    parameters = {"prompt_name": "query", "truncation_direction": "Left", "truncate": True}
    body = {"inputs": inputs, "parameters": parameters}
    assert answer(server, "/models/prompted/similarity", body) == prompted


@pytest.mark.parametrize("model", ["sentiment", "toxicity", "ranker"])
def test_predictions_have_the_scores_of_the_native_api(server: ServerProcess, model: str) -> None:
    text, pair = TEXTS[0], [TEXTS[0], TEXTS[2]]
    as_pair = {"text": pair[0], "text_pair": pair[1]}
    for inputs, expected in (
        (text, native(server, "classify", model, text)[0]),
        ([text], native(server, "classify", model, text)[0]),
        (pair, native(server, "classify", model, as_pair)[0]),
        ([[text], pair], native(server, "classify", model, [text, as_pair])),
        ([[text]], native(server, "classify", model, [text])),
    ):
        assert answer(server, f"/models/{model}/predict", {"inputs": inputs}) == expected
    raw = native(server, "classify", model, text, function_to_apply="none")
    assert answer(server, f"/models/{model}/predict", {"inputs": [[text]], "raw_scores": True}) == raw


@pytest.mark.parametrize("direction", ["Left", "Right", "left", "right"])
def test_long_texts_are_cut_at_the_end_that_is_named(server: ServerProcess, direction: str) -> None:
    expected = native(server, "embed", "mean", LONG, normalize=True, truncation_direction=direction.lower())
    for truncate in ({}, {"truncate": True}, {"truncate": None}):
        body = {"inputs": LONG, "truncation_direction": direction, **truncate}
        assert answer(server, "/models/mean/embed", body) == expected
    [predicted] = native(server, "classify", "sentiment", LONG, truncation_direction=direction.lower())
    assert answer(server, "/predict", {"inputs": LONG, "truncation_direction": direction}) == predicted


def test_the_model_is_that_of_the_path_or_of_the_body_or_the_default(server: ServerProcess) -> None:
    of_first, of_mean = (native(server, "embed", model, "Good", normalize=True) for model in ("first", "mean"))
    assert answer(server, "/embed", {"inputs": "Good"}) == of_first
    assert answer(server, "/embed", {"inputs": "Good", "model": "mean"}) == of_mean
    assert answer(server, "/models/mean/embed", {"inputs": "Good", "model": "first"}) == of_mean


@pytest.mark.parametrize("key", [KEY, f"Bearer {KEY}", f"bearer  {KEY}"])
def test_the_key_is_taken_with_and_without_its_scheme(server: ServerProcess, key: str) -> None:
    assert ask(server, "/embed", {"inputs": "Good"}, key).status == 200
    assert server.ask("GET", "/models/first/info", headers={"Authorization": key}).status == 200


@pytest.mark.parametrize("path", ["/embed", "/predict", "/models/mean/embed", "/tokenize", "/decode", "/embed_all"])
def test_without_the_key_nothing_is_answered(server: ServerProcess, path: str) -> None:
    for key in ("", "Bearer", f"Bearer {KEY}x", f"Basic {KEY}"):
        reply = ask(server, path, {"inputs": "Good"}, key)
        assert (reply.status, reply.json["error_type"]) == (401, "Validation")
        assert reply.headers["www-authenticate"] == "Bearer"


def test_requests_are_counted_as_those_of_this_api(server: ServerProcess) -> None:
    before = server.metric("bert_requests_total", api="tei", model="sentiment")
    answer(server, "/predict", {"inputs": "Good"})
    assert server.metric("bert_requests_total", api="tei", model="sentiment") == before + 1


def test_headers_tell_what_a_request_cost(server: ServerProcess) -> None:
    texts = ["東京", "Good morning"]
    usage = answer(server, "/v1/embed", {"model": "mean", "inputs": texts})["usage"]
    headers = ask(server, "/models/mean/embed", {"inputs": texts}).headers
    assert headers["x-compute-tokens"] == str(usage["tokens"])
    assert headers["x-compute-characters"] == str(2 + 12)
    assert headers["x-compute-type"] == "cpu+optimized"
    total, *parts = (
        int(headers[f"x-{name}-time"]) for name in ("total", "compute", "tokenization", "queue", "inference")
    )
    assert 0 <= max(parts) <= total < 60_000
    batch = ask(server, "/predict", {"inputs": [["東京"], ["Good", "morning"]]}).headers
    assert batch["x-compute-characters"] == str(2 + 4 + 7)


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "told"),
    [
        ("/embed", {"inputs": []}, 400, "Empty", "inputs"),
        ("/embed", {"inputs": ["Good", ""]}, 400, "Empty", "inputs[1]"),
        ("/predict", {"inputs": [["Good"], []]}, 400, "Empty", "inputs[1]"),
        ("/tokenize", {"inputs": ""}, 400, "Empty", "inputs"),
        ("/models/mean/decode", {"ids": []}, 400, "Empty", "ids"),
        ("/models/mean/decode", {"ids": [[2], []]}, 400, "Empty", "ids[1]"),
        ("/rerank", {"query": "Good", "texts": []}, 400, "Empty", "texts"),
        ("/rerank", {"query": "", "texts": ["Good"]}, 400, "Empty", "query"),
        ("/similarity", {"inputs": {"source_sentence": "Good", "sentences": []}}, 400, "Empty", "inputs.sentences"),
        ("/embed", b"{", 400, "Validation", "not valid JSON"),
        ("/embed", {}, 422, "Validation", "inputs: is missing"),
        ("/embed", {"inputs": [2, 204, 3]}, 422, "Validation", "token ids"),
        ("/embed", {"inputs": [[2, 204], [3]]}, 422, "Validation", "token ids"),
        ("/embed", {"inputs": "Good", "truncate": "yes"}, 422, "Validation", "truncate"),
        ("/embed", {"inputs": "Good", "truncation_direction": "up"}, 422, "Validation", "truncation_direction"),
        ("/embed", {"inputs": "Good", "normalize": None}, 422, "Validation", "normalize"),
        ("/embed", {"inputs": LONG, "truncate": False}, 422, "Validation", "tokens"),
        ("/embed", {"inputs": ["Good"] * (MAX_INPUTS + 1)}, 422, "Validation", "BERT_MAX_INPUTS"),
        ("/tokenize", {"inputs": ["Good"] * (MAX_INPUTS + 1)}, 422, "Validation", "BERT_MAX_INPUTS"),
        ("/models/mean/decode", {"ids": [[2]] * (MAX_INPUTS + 1)}, 422, "Validation", "BERT_MAX_INPUTS"),
        ("/models/mean/decode", {"ids": [-1]}, 422, "Validation", "ids"),
        ("/models/mean/decode", {"ids": [2**32]}, 422, "Validation", "ids"),
        ("/predict", {"inputs": ["Good", "day", "sir"]}, 422, "Validation", "a pair [text, text]"),
        ("/predict", {"inputs": [["Good", "day", "sir"]]}, 422, "Validation", "inputs[0]"),
        ("/predict", {"inputs": [["Good"], "day"]}, 422, "Validation", "inputs[1]"),
        ("/predict", {"inputs": {"text": "Good"}}, 422, "Validation", "a pair [text, text]"),
        ("/predict", {"inputs": LONG, "truncate": False}, 422, "Validation", "tokens"),
        ("/rerank", {"query": "Good", "texts": [LONG], "truncate": False}, 422, "Validation", "tokens"),
        ("/rerank", {"query": "Good", "texts": ["a"] * (MAX_INPUTS + 1)}, 422, "Validation", "BERT_MAX_INPUTS"),
        ("/rerank", {"query": "Good", "texts": ["a", None]}, 422, "Validation", "texts[1]"),
        ("/similarity", {"inputs": {"source_sentence": "Good"}}, 422, "Validation", "inputs.sentences"),
        ("/embed", {"inputs": "Good", "dimensions": 0}, 422, "Validation", "dimensions"),
        ("/embed", {"inputs": "Good", "dimensions": 999}, 422, "Validation", "dimensions"),
        ("/embed", {"inputs": "Good", "prompt_name": "no"}, 422, "Validation", "prompt_name"),
        ("/models/mean/tokenize", {"inputs": "Good", "prompt_name": "no"}, 422, "Validation", "prompt_name"),
        ("/models/sentiment/rerank", {"query": "Good", "texts": ["a"]}, 404, "Validation", "Models for rerank: ranker"),
        ("/embed_all", {"inputs": "Good"}, 422, "Validation", "Post to /embed"),
        ("/models/mean/embed_sparse", {"inputs": "Good"}, 422, "Validation", "Post to /embed"),
        ("/tokenize", {"inputs": "Good"}, 422, "Validation", "/models/NAME"),
        ("/models/sentiment/embed", {"inputs": "Good"}, 404, "Validation", "Models for embed: first, mean, prompted"),
        ("/models/nobody/embed", {"inputs": "Good"}, 404, "Validation", "no such model"),
        ("/models/nobody/tokenize", {"inputs": "Good"}, 404, "Validation", "no such model"),
    ],
)
def test_errors_have_the_status_and_the_type_of_the_original(
    server: ServerProcess, path: str, body: Any, status: int, kind: str, told: str
) -> None:
    reply = ask(server, path, body)
    assert reply.json.keys() == {"error", "error_type"}
    assert (reply.status, reply.json["error_type"]) == (status, kind)
    assert told in reply.json["error"]
    assert "Good" not in reply.json["error"]


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/embed", {"inputs": "a", "dimensions": 999}, "dimensions: "),
        ("/embed", {"inputs": "a", "prompt_name": "no"}, "prompt_name: "),
        ("/embed", {"inputs": ["a", LONG], "truncate": False}, "inputs[1] has more"),
        ("/rerank", {"query": "\0", "texts": ["a"]}, "query: "),
        ("/rerank", {"query": "a", "texts": ["a", "\0"]}, "texts[1]: "),
        ("/rerank", {"query": "a", "texts": ["a", LONG], "truncate": False}, "texts[1] with its query has more"),
        (
            "/similarity",
            {"inputs": {"source_sentence": "a", "sentences": [LONG]}, "parameters": {"truncate": False}},
            "inputs.sentences[0] has more",
        ),
    ],
)
def test_an_error_begins_with_the_place_in_the_request(server: ServerProcess, path: str, body: Any, place: str) -> None:
    assert ask(server, path, body).json["error"].startswith(place)


@pytest.mark.parametrize(
    ("error", "kind", "retry_after"),
    [
        (Overloaded("full", 3), "Overloaded", b"3"),
        (NotReady(), "Unhealthy", b"2"),
        (EngineLost(), "Unhealthy", b"2"),
        (Internal(), "Backend", None),
        (DeadlineExceeded("late"), "Backend", None),
    ],
)
def test_faults_keep_their_status_and_when_to_retry(error: ServiceError, kind: str, retry_after: bytes | None) -> None:
    api = API(Served(Catalog([]), lambda _: None, Readiness(), Limits(1, 1, 1.0, None)))
    status, headers, body = render_for(api, error, "a-1")
    assert status == error.status
    assert f'"error_type":"{kind}"'.encode() in body
    assert dict(headers).get(b"retry-after") == retry_after


@pytest.mark.parametrize("model", ["mean", "multilingual", "byte-level"])
def test_tokens_stand_where_their_bytes_are(server: ServerProcess, model: str) -> None:
    text = "Good morning, é東京 " + "the cat 😀 " * 2000
    [tokens] = answer(server, f"/models/{model}/tokenize", {"inputs": text})
    first, *inner, last = tokens
    for outer in (first, last):
        assert outer["special"]
        assert (outer["start"], outer["stop"]) == (None, None)
        assert outer["text"] in {"[CLS]", "[SEP]", "<s>", "</s>"}
    content = text.encode()
    for token in inner:
        assert not token["special"]
        assert content[token["start"] : token["stop"]].decode() == token["text"]
    covered = {place for token in inner for place in range(token["start"], token["stop"])}
    assert {place for place in range(len(content)) if content[place : place + 1] != b" "} <= covered
    [bare] = answer(server, f"/models/{model}/tokenize", {"inputs": text, "add_special_tokens": False})
    assert bare == inner


def test_the_tokens_of_the_prompt_come_first(server: ServerProcess) -> None:
    [plain] = answer(server, "/models/mean/tokenize", {"inputs": "What is it? Good"})
    assert answer(server, "/models/prompted/tokenize", {"inputs": "Good", "prompt_name": "query"}) == [plain]


def test_special_tokens_that_a_text_spells_out_belong_to_the_text(server: ServerProcess) -> None:
    [tokens] = answer(server, "/models/mean/tokenize", {"inputs": "a [SEP]"})
    assert [(token["text"], token["special"]) for token in tokens] == [
        ("[CLS]", True),
        ("a", False),
        ("[SEP]", False),
        ("[SEP]", True),
    ]


def test_tokens_are_decoded_to_their_text(server: ServerProcess) -> None:
    texts = ["the cat sat.", "good morning"]
    tokenized = answer(server, "/models/mean/tokenize", {"inputs": texts})
    ids = [[token["id"] for token in tokens] for tokens in tokenized]
    assert answer(server, "/models/mean/decode", {"ids": ids}) == texts
    assert answer(server, "/models/mean/decode", {"ids": ids[0]}) == texts[:1]
    [whole] = answer(server, "/models/mean/decode", {"ids": ids[0], "skip_special_tokens": False})
    assert whole == f"[CLS] {texts[0]} [SEP]"
    assert answer(server, "/models/mean/decode", {"ids": [*ids[0], 2**32 - 1]}) == texts[:1]


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("mean", {"embedding": {"pooling": "mean"}}),
        ("first", {"embedding": {"pooling": "cls"}}),
        ("ranker", {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}),
    ],
)
def test_info_describes_a_model(server: ServerProcess, model: str, kind: Any) -> None:
    info = server.ask("GET", f"/models/{model}/info", headers={"Authorization": KEY}).json
    assert info["model_type"] == kind
    assert (info["model_id"], info["served_model_name"]) == (MODELS[model], model)
    assert info["model_dtype"] == "float32"
    assert (info["max_client_batch_size"], info["auto_truncate"]) == (MAX_INPUTS, True)
    [card] = [
        card
        for card in server.ask("GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"}).json["models"]
        if card["name"] == model
    ]
    assert info["max_input_length"] == card["max_length"]


def test_info_names_the_labels_of_a_classifier(server: ServerProcess) -> None:
    info = server.ask("GET", "/models/sentiment/info", headers={"Authorization": KEY}).json
    classes = info["model_type"]["classifier"]
    assert classes["id2label"] == {"0": "négatif", "1": "neutral", "2": "positive"}
    assert classes["label2id"] == {"négatif": 0, "neutral": 1, "positive": 2}


def test_info_asks_for_the_model_if_there_are_several_and_refuses_other_kinds(server: ServerProcess) -> None:
    for path, told in (("/info", "/models/NAME/info"), ("/models/masked/info", "fill-mask")):
        reply = server.ask("GET", path, headers={"Authorization": KEY})
        assert (reply.status, reply.json["error_type"]) == (422, "Validation")
        assert told in reply.json["error"]


def test_the_only_model_needs_no_name(bundle_of: BundleOf) -> None:
    with serving(bundle_of("bert-embed"), "--threads", "1") as server:
        assert server.ask("GET", "/info").json["served_model_name"] == "bert-embed"
        [[first, *_]] = server.post("/tokenize", {"inputs": "Good"}).json
        assert first["text"] == "[CLS]"
        assert server.stop() == 0, server.log


def test_the_default_model_needs_no_name(models_of: ModelsOf) -> None:
    models = models_of({"first": "bert-embed", "second": "bert-single-label"})
    with serving(models, "--threads", "1", "--default-models", "second") as server:
        assert server.ask("GET", "/info").json["served_model_name"] == "second"
        assert server.post("/tokenize", {"inputs": "Good"}).status == 200
        assert server.stop() == 0, server.log
