"""The sentences that int8 is compared on."""

from model_export.check.sentences import generated_texts


def test_questions_are_many_and_their_texts_hold_the_answer() -> None:
    texts = generated_texts("question", 460)
    assert len(set(texts)) == len(texts) == 460
    assert all(question.removeprefix("What ").rstrip("?") in (context or "") for question, context in texts)


def test_sentences_are_many_and_different() -> None:
    texts = generated_texts("text-or-pair", 460)
    assert len(set(texts)) == len(texts) == 460
    assert sum(pair is not None for _, pair in texts) == 46
    words = [len(text.split()) for text, _ in texts]
    assert min(words) == 1
    assert max(words) > 25
