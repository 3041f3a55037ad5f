"""Logits of starts and ends to answers. That they are the pipeline's, tests/oracle holds; here are the rules one by one."""

import itertools
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from app.bundle.files import Bundle, load_bundle
from app.bundle.sequences import FloatArray
from app.errors import ValidationFailed
from app.tasks.answer import AnswerHandler, AnswerRequest, best_spans
from app.tasks.base import Model
from app.tasks.catalog import load_model
from app.tasks.windows import PreparedWindows
from tests.conftest import BundleOf

QUESTION, CONTEXT = "is it late?", "the cat sat on the mat"
LONG = " ".join([CONTEXT] * 12)


@pytest.fixture(scope="module")
def model(bundle_of: BundleOf) -> Model:
    return load_model(load_bundle(bundle_of("bert-answer")))


def asked(question: str = QUESTION, context: str = CONTEXT, **parameters: Any) -> AnswerRequest:
    return AnswerRequest.model_validate(
        {"inputs": {"question": question, "context": context}, "parameters": parameters}
    )


def prepare(model: Model, request: AnswerRequest) -> PreparedWindows:
    return AnswerHandler().prepare(model, request)


def answer(model: Model, request: AnswerRequest, *spans: tuple[int, int, float, float]) -> list[dict[str, Any]]:
    """The answers if in each window these positions of the sequence have these logits, and all others much less."""
    prepared = prepare(model, request)
    results = []
    for sequence in prepared.sequences:
        logits = np.full((len(sequence), 2), -20, np.float32)
        for start, end, start_logit, end_logit in spans:
            logits[start, 0], logits[end, 1] = start_logit, end_logit
        results.append(logits)
    [answers] = AnswerHandler().answer(model, request, prepared, results)
    return answers


def test_windows_begin_at_the_end_that_the_model_keeps(model: Model, bundle_of: BundleOf) -> None:
    bundle = load_bundle(bundle_of("bert-answer"))
    manifest = bundle.manifest.model_copy(update={"truncation_side": "left"})
    left = load_model(Bundle(bundle.folder, manifest))
    length = model.tokenizer.max_length
    library = tokenizers.Tokenizer.from_file(str(bundle.path(bundle.manifest.tokenizer)))
    for served, direction in ((model, "right"), (left, "left")):
        library.enable_truncation(length, stride=length // 2, strategy="only_second", direction=direction)
        first = library.encode(QUESTION, LONG)
        windows = [one.ids for one in (first, *first.overflowing)]
        ours = [one.input_ids.tolist() for one in prepare(served, asked(context=LONG, stride=length // 2)).sequences]
        assert ours == windows


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=12), st.integers(1, 20), st.integers(1, 100))
def test_best_spans_equal_an_exhaustive_search(pairs: list[tuple[float, float]], max_length: int, count: int) -> None:
    start, end = np.array(pairs, np.float32).reshape(-1, 2).T
    every = [
        (-start[i] * end[j], i, j) for i, j in itertools.product(range(len(pairs)), repeat=2) if i <= j < i + max_length
    ]
    firsts, lasts, scores = best_spans(start, end, max_length, count)
    got = list(zip((-scores).tolist(), firsts.tolist(), lasts.tolist(), strict=True))
    assert got == sorted(every)[:count]


def test_an_answer_has_whole_words(model: Model) -> None:
    words = model.tokenizer.encode_located([(QUESTION, CONTEXT)], cut=None)[0].words.tolist()
    begin = prepare(model, asked()).windows[0][0].begin
    inner = next(i for i in range(begin, len(words) - 1) if words[i] == words[i + 1])
    [one] = answer(model, asked(), (inner + 1, inner + 1, 5, 5))
    assert f" {one['answer']} " in f" {CONTEXT} "
    assert CONTEXT[one["start"] : one["end"]] == one["answer"]
    assert one["score"] == pytest.approx(1, abs=1e-6)


def test_no_span_ends_before_it_starts_or_is_longer_than_it_may_be(model: Model) -> None:
    begin = prepare(model, asked()).windows[0][0].begin
    for one in answer(model, asked(top_k=1000), (begin + 4, begin, 5, 5)):
        assert one["start"] < one["end"]
    lengths = {
        max_length: answer(model, asked(max_answer_length=max_length), (begin, begin + 4, 5, 5))
        for max_length in (4, 5)
    }
    assert lengths[5][0]["score"] == pytest.approx(1, abs=1e-6)
    assert lengths[4][0]["score"] < 1e-6


def test_the_question_is_never_the_answer(model: Model) -> None:
    [one] = answer(model, asked(), (1, 2, 5, 5))
    assert one["answer"] in CONTEXT
    assert one["score"] < 1  # and takes no part in the softmax
    every = answer(model, asked(top_k=1000), (1, 2, 5, 5))
    assert sum(one["score"] for one in every) < 1.000001


def test_equal_wordings_are_one_answer(model: Model) -> None:
    request = asked(context="mat mat MAT", top_k=5, max_answer_length=1)
    begin = prepare(model, request).windows[0][0].begin
    words = prepare(model, request).windows[0][0].words.tolist()
    at = [begin + words.index(word) for word in sorted(set(words))]
    answers = answer(model, request, *((i, i, logit, logit) for i, logit in zip(at, (1, 3, 2), strict=True)))
    start = np.exp([1, 3, 2]) / np.exp([1, 3, 2]).sum()
    assert answers[0] == {"answer": "mat", "score": pytest.approx((start**2).sum(), abs=1e-6), "start": 4, "end": 7}


def test_no_answer_competes_if_it_is_allowed(model: Model) -> None:
    begin = prepare(model, asked()).windows[0][0].begin
    spans = ((0, 0, 2.0, 2.0), (begin, begin, 0.0, 0.0))
    null = (np.exp(2) / (np.exp(2) + 1)) ** 2
    answers = answer(model, asked(top_k=2, handle_impossible_answer=True), *spans)
    assert answers[0] == {"answer": "", "score": pytest.approx(null, abs=1e-6), "start": 0, "end": 0}
    assert answers[1]["answer"] == "the"
    assert [one["answer"] for one in answer(model, asked(top_k=1), *spans)] == ["the"]


def test_top_k_limits_the_answers(model: Model) -> None:
    for top_k in (1, 2, 5):
        assert len(answer(model, asked(top_k=top_k))) == top_k
    few = answer(model, asked(context="cat", top_k=100))
    assert {one["answer"] for one in few} == {"cat"}
    scores = [one["score"] for one in answer(model, asked(top_k=50))]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("context", [" ", "\n\t"])
def test_a_context_without_a_token_has_no_answer(model: Model, context: str) -> None:
    assert answer(model, asked(context=context)) == []
    [one] = answer(model, asked(context=context, handle_impossible_answer=True))
    assert one == {"answer": "", "score": 1, "start": 0, "end": 0}


def test_a_long_context_is_read_in_windows_each_with_the_question(model: Model) -> None:
    prepared = prepare(model, asked(context=LONG))
    [windows] = prepared.windows
    assert len(windows) > 3
    assert prepared.truncated == 0
    questions = {tuple(one.sequence.input_ids[: one.begin].tolist()) for one in windows}
    assert len(questions) == 1
    assert all(len(one.sequence) <= 40 for one in windows)
    assert all(one.sequence.token_type_ids[one.begin :].all() for one in windows)
    # By default half of a window is shared, or half of what is left beside a long question.
    assert windows[1].offsets[0].tolist() in windows[0].offsets.tolist()


def test_an_answer_in_several_windows_has_its_highest_score(model: Model) -> None:
    request = asked(context=LONG, top_k=3)
    prepared = prepare(model, request)
    target = LONG.index("mat", 60)
    results: list[FloatArray] = []
    expected: list[float] = []
    for one in prepared.windows[0]:
        logits = np.zeros((len(one.sequence), 2), np.float32)
        found = np.flatnonzero(one.offsets[:, 0] == target)
        logits[one.begin + found] = 4 + len(results)
        results.append(logits)
        if len(found):
            tokens = len(one.offsets)
            expected.append((np.exp(3 + len(results)) / (np.exp(3 + len(results)) + tokens)) ** 2)
    assert len(expected) > 1
    [[best, *_]] = AnswerHandler().answer(model, request, prepared, results)
    assert best["start"] == target
    assert best["score"] == pytest.approx(max(expected), rel=0.02)
    assert best["score"] < 1


def test_no_answer_has_the_lowest_score_of_all_windows(model: Model) -> None:
    request = asked(context=LONG, top_k=1000, handle_impossible_answer=True)
    prepared = prepare(model, request)
    results = []
    for i, sequence in enumerate(prepared.sequences):
        logits = np.full((len(sequence), 2), -20, np.float32)
        logits[0] = 20 if i != 1 else -20
        results.append(logits)
    [answers] = AnswerHandler().answer(model, request, prepared, results)
    [null] = [one for one in answers if not one["answer"]]
    assert null["score"] == pytest.approx((1 / (1 + len(prepared.windows[0][1].offsets))) ** 2)


def test_a_long_question_is_cut(model: Model) -> None:
    question = " ".join(["late"] * 20)
    prepared = prepare(model, asked(question, max_question_length=5))
    assert prepared.truncated == 1
    [late] = {*model.tokenizer.encode(["late"])[0].input_ids.tolist()[1:-1]}
    assert prepared.sequences[0].input_ids.tolist().count(late) == 5
    whole = prepare(model, asked(question))
    assert (whole.truncated, whole.sequences[0].input_ids.tolist().count(late)) == (0, 20)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (asked("late " * 37), r"inputs\[0\].question leaves no room.*40 tokens.*max_question_length"),
        (asked(context=LONG, stride=40), r"parameters.stride: must be less than \d+.*question of inputs\[0\]"),
        (asked(context=LONG * 400, stride=30), r"make \d+ windows; at most 4096"),
    ],
)
def test_unanswerable_requests_are_refused(model: Model, request_: AnswerRequest, says: str) -> None:
    with pytest.raises(ValidationFailed, match=says):
        prepare(model, request_)


def test_a_stride_that_is_not_needed_is_not_refused(model: Model) -> None:
    assert len(prepare(model, asked(stride=1000)).sequences) == 1


def test_the_weight_grows_with_windows_and_answers(model: Model) -> None:
    def weight(**changes: Any) -> int:
        request = asked(**changes)
        return AnswerHandler().weight(model, request, prepare(model, request))

    assert weight() < weight(top_k=100) < weight(context=LONG, top_k=100)
    assert weight() < weight(max_answer_length=100) < weight(max_answer_length=384) == weight(max_answer_length=10**9)
