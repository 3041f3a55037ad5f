"""The golden cases of a bundle: texts, and what the checkpoint answers to them."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from app.bundle.manifest import GoldenCase, GoldenLabel, GoldenMask, SpecialToken
from app.bundle.sequences import FloatArray, TokenSequence
from model_export.check.reference import sigmoid, softmax
from model_export.check.sequences import TOP_K, checked_sequence
from model_export.check.tolerances import largest_difference, score_function
from model_export.checkpoint.load import LoadedCheckpoint
from model_export.errors import ExportError
from model_export.tasks import InputKind, ResultKind

_LONG: Final = (
    "We have used the old version for years and were content with it. The new one starts faster, looks cleaner and "
    "costs less, yet it forgets its settings each night, its manual is wrong, and nobody answers our letters."
)

# The first text of each kind is a single token, for models with a very small maximum length.
_SENTENCES: Final = (
    ("!", None),
    ("I love this product", None),
    ("This is a bad product", None),
    ("The film was slow at first, but its last hour is among the best I have ever seen.", None),
    ("No.", None),
    ("Where is my order #40317? It should have come on 3 May!", None),
    ("Der Kaffee war kalt und die Bedienung unfreundlich.", None),
    ("Le service était impeccable, même à Noël.", None),
    ("El niño comió una manzana mañana por la mañana.", None),
    ("这家餐厅的菜很好吃服务也不错。", None),
    ("これはとても良い本です。", None),
    ("Эта книга мне совсем не понравилась.", None),
    ("الخدمة كانت ممتازة", None),
    ("Great 👍👍 would buy again 😀", None),
    ("A man is playing a guitar.", "Someone is making music."),
    ("Is the shop open on Sundays?", "No, it opens from Monday to Saturday, from nine until six."),
    (_LONG, None),
)
# A sentence and a possible next one, or a question and a possible context.
_PAIRS: Final = (
    ("!", "!"),
    ("Where?", "In Paris."),
    ("Who?", "The cat on the mat."),
    ("Is it good?", "Yes, it is very good."),
    ("Hello.", "Good day."),
    ("Is the shop open on Sundays?", "No, it opens from Monday to Saturday, from nine until six."),
    ("Who wrote the letter?", "The letter was written by my sister in 1987."),
    ("A man is playing a guitar.", "Someone is making music."),
    ("It was raining.", "We took an umbrella."),
    ("It was raining.", "The square root of 9 is 3."),
    ("What does it cost?", "Where is my order #40317?"),
    ("Wo war der Kaffee kalt?", "Im Café am Bahnhof war der Kaffee kalt."),
    ("À quelle heure ?", "Le train part à 7 h 45, même à Noël."),
    ("谁喜欢喝茶?", "我喜欢喝茶,不喜欢喝咖啡。"),
    ("Где книга?", "Книга лежит на столе."),
    ("Great 👍", "😀 would buy again"),
    ("How long have they used the old version?", _LONG),
)
# {mask} is the checkpoint's mask token.
_MASKED: Final = (
    "{mask}",
    "The capital of France is {mask}.",
    "{mask} is the largest planet.",
    "He drank a cup of {mask}.",
    "I {mask} this product",
    "A doctor works in a {mask}.",
    "She opened the {mask} and looked outside.",
    "It was raining, so we took an {mask}",
    "The {mask} of the {mask} was long.",
    "Der {mask} war kalt.",
    "Le {mask} était impeccable, même à Noël.",
    "El niño comió una {mask}.",
    "这家餐厅的{mask}很好吃。",
    "これは{mask}本です。",
    "Эта {mask} мне не понравилась.",
    "Great 👍 would {mask} again 😀",
    _LONG.replace("settings", "{mask}"),
)


def golden_cases(checkpoint: LoadedCheckpoint) -> list[GoldenCase]:
    """Return the texts that fit into the checkpoint's maximum length, tokenized but without answers.

    Raises:
        ExportError: none fits.
    """
    texts = _texts(checkpoint.network.task.inputs, checkpoint.mask)
    encoded = [(*pair, checkpoint.tokenizer.fast.encode(*pair)) for pair in texts]
    cases = [
        GoldenCase(text=text, text_pair=text_pair, input_ids=tuple(one.ids), token_type_ids=tuple(one.type_ids))
        for text, text_pair, one in encoded
        if len(one.ids) <= checkpoint.max_length
    ]
    if not cases:
        raise ExportError(f"Not even one word fits into {checkpoint.max_length} tokens. Raise --max-length.")
    return cases


def _texts(inputs: InputKind, mask: SpecialToken | None) -> Sequence[tuple[str, str | None]]:
    match inputs:
        case "text-or-pair":
            return _SENTENCES
        case "text":
            return [(text, None) for text, text_pair in _SENTENCES if text_pair is None]
        case "pair" | "question":
            return _PAIRS
        case "masked-text":
            return [(text.format(mask=mask.text), None) for text in _MASKED] if mask else []


def golden_batch(cases: Sequence[GoldenCase], mask: SpecialToken | None) -> list[TokenSequence]:
    """Return the tokens of golden cases; `mask` is the mask token if the task answers masks."""
    return [checked_sequence(case.input_ids, case.token_type_ids, mask) for case in cases]


def with_answer(case: GoldenCase, answer: FloatArray, result: ResultKind) -> GoldenCase:
    """Return a golden case with its answer, of masked tokens the most likely ones."""
    match result:
        case "labels":
            return case.model_copy(update={"logits": tuple(answer.tolist())})
        case "token-labels" | "span":
            return case.model_copy(update={"token_logits": tuple(map(tuple, answer.tolist()))})
        case "embedding":
            return case.model_copy(update={"embedding": tuple(answer.tolist())})
        case "masked-tokens":
            best = np.argsort(-answer, axis=1, kind="stable")[:, :TOP_K]
            masks = [
                GoldenMask(tokens=tuple(tokens.tolist()), scores=tuple(scores[tokens].tolist()))
                for tokens, scores in zip(best, answer, strict=True)
            ]
            return case.model_copy(update={"masks": tuple(masks)})


def with_labels(case: GoldenCase, answer: FloatArray, checkpoint: LoadedCheckpoint) -> GoldenCase:
    """Return a golden case with the labels that a caller gets for it, if the checkpoint names them."""
    network = checkpoint.network
    names = network.config.labels
    if network.task.labels or network.task.result not in ("labels", "token-labels"):
        return case
    if network.task.result == "token-labels":
        rows = softmax(answer)
        best = [(int(row.argmax()), float(row.max())) for row in rows]
    else:
        to_scores = sigmoid if network.task.has_one_label else score_function(network)
        if checkpoint.score_function == "none":
            to_scores = None
        scores = answer if to_scores is None else to_scores(answer)
        best = [(int(i), float(scores[i])) for i in np.argsort(-scores, kind="stable")]
    labels = tuple(GoldenLabel(label=names[i], score=score) for i, score in best)
    return case.model_copy(update={"labels": labels})


def golden_difference(case: GoldenCase, answer: FloatArray) -> float:
    """Return the largest difference of an answer from the golden one; infinite where it is not a number."""
    if case.masks is None:
        expected = next(value for value in (case.logits, case.token_logits, case.embedding) if value is not None)
        return largest_difference([answer], [np.array(expected, np.float32)])
    scores = [row[list(mask.tokens)] for row, mask in zip(answer, case.masks, strict=True)]
    return largest_difference(scores, [np.array(mask.scores, np.float32) for mask in case.masks])
