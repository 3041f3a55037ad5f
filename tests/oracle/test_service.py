"""The service answers as the transformers pipelines do, whatever else it is asked at the same time."""

from collections import defaultdict

import numpy as np
import pytest

from tests.oracle.answers import Oracle, Question, assert_same, each_oracle, oracles
from tests.oracle.client import Replies, assert_as_stored, connect
from tests.support import ServerProcess


@each_oracle()
def test_every_question_in_a_batch_with_all_others(oracle: Oracle, replies: Replies) -> None:
    assert_as_stored(oracle, replies)


@each_oracle(demo=False)
def test_many_inputs_in_one_request_are_answered_in_order(oracle: Oracle, server: ServerProcess) -> None:
    alike: dict[str, list[Question]] = defaultdict(list)
    for question in oracle.questions:
        alike[repr(question.parameters)].append(question)
    with connect(server.url) as connection:
        for together in alike.values():
            reply = connection.ask(oracle, [question.input for question in together], together[0].parameters)
            assert reply.status == 200, reply.body
            assert_same(reply.body["predictions"], [question.prediction for question in together])
            assert reply.body["usage"] == {
                "tokens": sum(question.tokens for question in together),
                "truncated": sum(question.truncated for question in together),
            }


@pytest.mark.parametrize("oracle", [one for one in oracles() if one.task == "embed"], ids=lambda oracle: oracle.name)
def test_similarities_are_the_cosines_of_the_stored_embeddings(oracle: Oracle, server: ServerProcess) -> None:
    stored = [question for question in oracle.questions if not question.parameters]
    vectors = np.array([question.prediction for question in stored])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    source, *others = (question.input for question in stored)
    with connect(server.url) as connection:
        inputs = {"source_sentence": source, "sentences": others}
        reply = connection.ask(oracle, inputs, {}, task="similarity")
    assert reply.status == 200, reply.body
    assert_same(reply.body["predictions"], [(vectors[1:] @ vectors[0]).tolist()])


@pytest.mark.usefixtures("replies")
def test_requests_shared_batches(server: ServerProcess) -> None:
    """Without this the first test might have asked them one after the other."""
    with connect(server.url) as connection:
        metrics = connection.read("/metrics").splitlines()
    counts = defaultdict[str, float](float)
    for line in metrics:
        if line.startswith("bert_batch_sequences_bucket"):
            at_most = line.split('le="')[1].split('"')[0]
            counts[at_most] += float(line.rsplit(" ", 1)[1])
    shared = counts["+Inf"] - counts["1.0"]
    assert shared > 0.05 * counts["+Inf"], f"of {counts['+Inf']:.0f} batches {shared:.0f} held more than one sequence"
