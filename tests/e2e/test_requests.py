"""What good requests are answered, over a real socket."""

import itertools
import json
import random
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.bundle.cpus import FAST_INT8, has_bf16_products, instruction_sets
from tests.e2e.wire import head, message, wire
from tests.fixtures.corpus import CLASSIFY, FILL_MASK
from tests.support import Connection, Reply, ServerProcess

TEXT = "The cat sat on the mat."
MADE_ID = re.compile(r"[0-9a-f]{16}")


def classify(server: ServerProcess, inputs: Any, model: str = "sentiment", **parameters: Any) -> Reply:
    reply = server.post("/v1/classify", {"model": model, "inputs": inputs, "parameters": parameters})
    assert reply.status == 200, reply.body
    return reply


def fill_mask(server: ServerProcess, inputs: Any, **parameters: Any) -> Any:
    reply = server.post("/v1/fill-mask", {"inputs": inputs, "parameters": parameters})
    assert reply.status == 200, reply.body
    return reply.json


def test_a_text_is_classified(shared_server: ServerProcess) -> None:
    answer = classify(shared_server, TEXT).json
    assert answer["model"] == "sentiment"
    assert answer["usage"] == {"tokens": 13, "truncated": 0}
    [scored] = answer["predictions"]
    assert {one["label"] for one in scored} == {"négatif", "neutral", "positive"}
    scores = [one["score"] for one in scored]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-12)


def test_inputs_are_answered_in_their_order(shared_server: ServerProcess) -> None:
    inputs = [*CLASSIFY, *reversed(CLASSIFY)]
    together = classify(shared_server, inputs).json
    alone = [classify(shared_server, one).json for one in inputs]
    assert together["predictions"] == [one["predictions"][0] for one in alone]
    assert together["usage"]["tokens"] == sum(one["usage"]["tokens"] for one in alone)
    assert together["usage"]["truncated"] == sum(one["usage"]["truncated"] for one in alone)


def test_a_pair_is_answered_as_a_pair(shared_server: ServerProcess) -> None:
    [one], [pair], [swapped] = (
        classify(shared_server, inputs).json["predictions"]
        for inputs in (TEXT, {"text": TEXT, "text_pair": "Is it good?"}, {"text": "Is it good?", "text_pair": TEXT})
    )
    assert one != pair != swapped


@pytest.mark.parametrize("pair", [{"text": TEXT}, {"text": TEXT, "text_pair": None}, {"text": TEXT, "text_pair": ""}])
def test_a_pair_without_a_second_text_is_a_text(shared_server: ServerProcess, pair: dict[str, str | None]) -> None:
    assert classify(shared_server, pair).json == classify(shared_server, TEXT).json


def test_top_k_limits_the_answers(shared_server: ServerProcess) -> None:
    [every] = classify(shared_server, TEXT).json["predictions"]
    for top_k in (1, 2, 3, 1000):
        assert classify(shared_server, TEXT, top_k=top_k).json["predictions"] == [every[:top_k]]


def test_function_to_apply_changes_the_scores(shared_server: ServerProcess) -> None:
    def scores(model: str, **parameters: Any) -> dict[str, float]:
        [labels] = classify(shared_server, TEXT, model, **parameters).json["predictions"]
        return {one["label"]: one["score"] for one in labels}

    for model, default in (("sentiment", "softmax"), ("toxicity", "sigmoid")):
        assert scores(model) == scores(model, function_to_apply=default)
        assert scores(model) != scores(model, function_to_apply="none")
    assert sum(scores("toxicity", function_to_apply="softmax").values()) == pytest.approx(1)
    assert scores("sentiment", function_to_apply="none") != scores("sentiment", function_to_apply="sigmoid")


def test_a_long_text_is_cut_at_the_requested_end(shared_server: ServerProcess) -> None:
    start, end = "good " * 38, "late " * 38
    cut_right = classify(shared_server, start + end).json
    cut_left = classify(shared_server, start + end, truncation_direction="left").json
    assert cut_right["usage"] == cut_left["usage"] == {"tokens": 40, "truncated": 1}
    assert cut_right["predictions"] == classify(shared_server, start).json["predictions"]
    assert cut_left["predictions"] == classify(shared_server, end).json["predictions"]
    # As long as the model takes is not too long.
    assert classify(shared_server, start, truncation=False).json["usage"] == {"tokens": 40, "truncated": 0}


def test_every_mask_is_filled(shared_server: ServerProcess) -> None:
    answer = fill_mask(shared_server, ["The [MASK] sat on the [MASK].", "I love [MASK]"])
    assert [len(masks) for masks in answer["predictions"]] == [2, 1]
    for mask in itertools.chain(*answer["predictions"]):
        assert len(mask) == 5
        scores = [one["score"] for one in mask]
        assert scores == sorted(scores, reverse=True)
        assert all(one["token_str"].removeprefix("##") in one["sequence"] for one in mask)
    # With several masks the others stay visible.
    assert "[MASK]" in answer["predictions"][0][0][0]["sequence"]
    assert "[MASK]" not in answer["predictions"][1][0][0]["sequence"]


def test_targets_are_the_only_tokens_and_keep_their_scores(shared_server: ServerProcess) -> None:
    [[every]] = fill_mask(shared_server, "I love [MASK]", top_k=1000)["predictions"]
    scores = {one["token_str"]: one["score"] for one in every}
    assert sum(scores.values()) == pytest.approx(1, abs=1e-4)
    [[chosen]] = fill_mask(shared_server, "I love [MASK]", targets=["good", "late", "good"])["predictions"]
    assert {one["token_str"]: one["score"] for one in chosen} == {word: scores[word] for word in ("good", "late")}
    [[best]] = fill_mask(shared_server, "I love [MASK]", targets=["good", "late"], top_k=1)["predictions"]
    assert best == chosen[:1]


def test_no_answer_depends_on_its_batch(shared_server: ServerProcess) -> None:
    """Bit for bit: `==` on the answers' JSON, alone and among all others from many connections at once."""
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/v1/classify", {"model": model, "inputs": text}) for model in ("sentiment", "toxicity") for text in CLASSIFY
    ]
    asked += [
        ("/v1/fill-mask", {"inputs": text.format(mask="[MASK]"), "parameters": parameters})
        for text in FILL_MASK
        for parameters in ({}, {"top_k": 40}, {"targets": ["good", "late", "a"]})
    ]
    asked += [("/v1/classify", {"model": "sentiment", "inputs": [*CLASSIFY, TEXT * 5]})]
    alone = [shared_server.post(path, body).json for path, body in asked]
    assert all("predictions" in answer for answer in alone)
    order = list(range(len(asked))) * 4
    random.Random(7).shuffle(order)
    connections, batches = 16, shared_server.metric("bert_batch_sequences_count")

    def ask(numbers: Sequence[int]) -> list[tuple[int, Any]]:
        connection = Connection(shared_server.url)
        try:
            return [(i, connection.ask("POST", *asked[i]).json) for i in numbers]
        finally:
            connection.close()

    with ThreadPoolExecutor(connections) as threads:
        for answers in threads.map(ask, [order[i::connections] for i in range(connections)]):
            for i, answer in answers:
                assert answer == alone[i], asked[i]
    assert shared_server.metric("bert_batch_sequences_count") - batches < len(order), "no request shared a batch"


def test_models_are_listed(shared_server: ServerProcess) -> None:
    cards = shared_server.ask("GET", "/v1/models").json["models"]
    assert [card["name"] for card in cards] == ["masked", "sentiment", "toxicity"]
    for card in cards:
        assert card == shared_server.ask("GET", f"/v1/models/{card['name']}").json
        assert (card["variant"], card["provider"], card["max_length"]) == ("cpu-fp32", "CPUExecutionProvider", 40)
        assert card["instruction_sets"] == list(instruction_sets())
        by_variant = {one["variant"]: one for one in card["faster"]}
        has_fast_int8 = not FAST_INT8.isdisjoint(instruction_sets())
        assert ("cpu-int8" in by_variant, "cpu-bf16" in by_variant) == (has_fast_int8, has_bf16_products())
        if "cpu-int8" in by_variant:
            command = f"--output models/{card['name']} --task {card['task']} --variants cpu-fp32,cpu-int8"
            assert by_variant["cpu-int8"]["command"].endswith(command)
            assert by_variant["cpu-int8"]["setting"] == "BERT_PRECISION=int8"
    masked, sentiment, toxicity = cards
    assert (masked["task"], masked["mask_token"], masked["labels"]) == ("fill-mask", "[MASK]", [])
    assert (sentiment["problem_type"], toxicity["problem_type"]) == (
        "single_label_classification",
        "multi_label_classification",
    )
    assert sentiment["labels"] == ["négatif", "neutral", "positive"]
    assert sentiment["mask_token"] is None
    assert sentiment["architecture"]["family"] == "bert"
    # The name of the checkpoint, not where it was on the machine that exported it.
    assert sentiment["source"]["checkpoint"] == "bert-single-label"


@pytest.mark.parametrize("given", ["a", "job-7_part.3", "A" * 128])
def test_a_request_id_comes_back(shared_server: ServerProcess, given: str) -> None:
    for reply in (
        shared_server.post("/v1/classify", {"model": "sentiment", "inputs": TEXT}, x_request_id=given),
        shared_server.post("/v1/classify", b"", x_request_id=given),
        shared_server.ask("GET", "/livez", headers={"X-Request-Id": given}),
        shared_server.ask("GET", "/nothing", headers={"X-Request-Id": given}),
        shared_server.ask("PUT", "/v1/classify", headers={"X-Request-Id": given}),
    ):
        assert reply.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "A" * 129, 'quoted"', "caf\xe9", "a\tb", "semi;colon"])
def test_a_request_id_that_is_not_fit_for_a_log_is_replaced(shared_server: ServerProcess, given: str) -> None:
    with wire(shared_server.url) as line:
        line.send(head(f"X-Request-Id: {given}", method="GET", path="/livez"))
        assert MADE_ID.fullmatch(line.reply().headers["x-request-id"])


def test_request_ids_are_made(shared_server: ServerProcess) -> None:
    made = [shared_server.ask("GET", "/livez").headers["x-request-id"] for _ in range(20)]
    assert all(MADE_ID.fullmatch(one) for one in made)
    assert len(set(made)) == 20


def test_a_connection_serves_many_requests(shared_server: ServerProcess) -> None:
    good = json.dumps({"model": "sentiment", "inputs": TEXT}).encode()
    expected = classify(shared_server, TEXT).json
    with wire(shared_server.url) as line:
        for _ in range(3):
            line.send(message(good))
            assert line.reply().json == expected
            line.send(message(b"nonsense"))
            assert line.reply().status == 400
            line.send(message(good, method="GET", path="/nothing"))
            assert line.reply().status == 404


def test_pipelined_requests_are_answered_in_their_order(shared_server: ServerProcess) -> None:
    bodies = [json.dumps({"model": "sentiment", "inputs": [TEXT] * size}).encode() for size in (50, 1, 9, 1)]
    with wire(shared_server.url) as line:
        line.send(b"".join(message(body) for body in [*bodies, b"nonsense", bodies[1]]))
        replies = [line.reply() for _ in range(6)]
    assert [len(reply.json["predictions"]) for reply in replies[:4]] == [50, 1, 9, 1]
    assert [reply.status for reply in replies[4:]] == [400, 200]


def test_a_request_in_many_pieces_is_answered(shared_server: ServerProcess) -> None:
    good = message(json.dumps({"model": "sentiment", "inputs": "Café 天"}, ensure_ascii=False).encode())
    with wire(shared_server.url) as line:
        for byte in good:
            line.send(bytes([byte]))
        assert line.reply().status == 200


def test_a_chunked_body_is_read(shared_server: ServerProcess) -> None:
    good = json.dumps({"model": "sentiment", "inputs": TEXT}).encode()
    with wire(shared_server.url) as line:
        line.send(head("Transfer-Encoding: chunked"))
        line.send(b"%x\r\n%s\r\n" % (10, good[:10]) + b"%x\r\n%s\r\n0\r\n\r\n" % (len(good) - 10, good[10:]))
        assert line.reply().json == classify(shared_server, TEXT).json


def test_expect_100_continue_is_answered(shared_server: ServerProcess) -> None:
    good = json.dumps({"model": "sentiment", "inputs": TEXT}).encode()
    with wire(shared_server.url) as line:
        line.send(head(f"Content-Length: {len(good)}", "Expect: 100-continue"))
        assert line.reply().status == 100
        line.send(good)
        assert line.reply().status == 200


def test_an_offer_of_another_protocol_is_ignored(shared_server: ServerProcess) -> None:
    """As the HTTP client of Java makes with each request."""
    good = json.dumps({"model": "sentiment", "inputs": TEXT}).encode()
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAA")
    before = shared_server.log.count("warning")
    with wire(shared_server.url) as line:
        for _ in range(2):
            line.send(message(good, *offer))
            assert line.reply().json == classify(shared_server, TEXT).json
    assert shared_server.log.count("warning") == before


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1"])
def test_the_connection_closes_when_the_caller_asks_for_it(shared_server: ServerProcess, version: bytes) -> None:
    headers = ["Connection: close"] if version == b"HTTP/1.1" else []
    good = message(json.dumps({"model": "sentiment", "inputs": TEXT}).encode(), *headers)
    with wire(shared_server.url) as line:
        line.send(good.replace(b"HTTP/1.1", version, 1))
        reply = line.reply()
        assert reply.status == 200
        assert reply.headers["connection"] == "close"
        assert line.is_closed()
