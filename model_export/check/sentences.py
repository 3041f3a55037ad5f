"""Generated sentences, similar to real input, to count how often a precision changes the answer.

They are put together from phrases, have 1 to 40 words and many topics and moods, and are the same in each export.
"""

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from model_export.tasks import InputKind

_SEED: Final = 20220604
_PAIR_EVERY: Final = 10

_SUBJECTS: Final = (
    "the film",
    "this phone",
    "the battery",
    "our waiter",
    "the hotel room",
    "her second novel",
    "the new update",
    "the delivery",
    "customer service",
    "the soundtrack",
    "the minister",
    "the home team",
    "my doctor",
    "the vaccine trial",
    "the central bank",
    "the stock",
    "this course",
    "the lecturer",
    "the road to the coast",
    "the old bridge",
    "the soup",
    "their bread",
    "the engine",
    "the train to Leeds",
    "a blue whale",
    "the algorithm",
    "the survey of 2,400 voters",
    "the contract",
    "my landlord",
    "the garden",
    "the company's chief executive",
    "the orchestra",
    "the keyboard",
    "this jacket",
    "the playground",
    "the court",
)
_GOOD: Final = (
    "is among the best I know",
    "works like a charm",
    "was a pleasant surprise",
    "could not have been kinder",
    "made us laugh all evening",
    "is worth every cent",
    "exceeded what was promised",
    "was quick, clean and cheap",
    "has won three awards",
    "rose by 4.5 percent in March",
    "deserves more praise than it gets",
    "is easy to use, even for my father",
    "saved us a whole week",
    "finally does what it should",
)
_BAD: Final = (
    "broke after two days",
    "was a waste of time and money",
    "left us cold",
    "never answered our letters",
    "is far too loud",
    "fell apart in the second half",
    "smells of smoke",
    "was late again, without a word of excuse",
    "lost 300 jobs last year",
    "is nothing like the picture",
    "gave me a headache",
    "failed the simplest test",
    "is the worst I have seen in years",
    "costs twice as much elsewhere and is worth half",
)
_PLAIN: Final = (
    "opens at nine and closes at six",
    "was built in 1931",
    "will be discussed on Thursday",
    "comes in three sizes",
    "moved to another street",
    "is made of oak and steel",
    "has 24 members from 11 countries",
    "uses about two litres a day",
    "was sent on 3 May with order #40317",
    "is near the station",
    "depends on the weather",
    "was mentioned in yesterday's paper",
)
_HEDGES: Final = (
    "",
    "",
    "",
    "I must say ",
    "to be fair, ",
    "in my opinion ",
    "as far as I can tell, ",
    "honestly, ",
    "according to the report, ",
    "it seems that ",
    "my sister says ",
    "nobody told us that ",
    "I don't think ",
    "oh great, ",
)
_JOINTS: Final = (
    ", but ",
    ", and ",
    " although ",
    "; still, ",
    ", while ",
    " because ",
    ". On the other hand ",
    ", so ",
)
_ENDS: Final = (".", ".", ".", "!", "...", " :)", "?!", ", isn't it?", " #fail", " 👍", "")
_SHORT: Final = (
    "never again",
    "not bad at all",
    "meh",
    "love it",
    "what a mess",
    "ten out of ten",
    "where is my refund",
    "thanks a lot",
    "so so",
    "it depends",
    "call me back",
    "could be better",
    "I want to cancel",
    "who wrote this",
    "simply wonderful",
    "no comment",
)


def generated_texts(inputs: InputKind, count: int) -> Sequence[tuple[str, str | None]]:
    """Return so many texts of a kind (pairs: one less), no two the same, each with its second text if it has one.

    A tenth of `text-or-pair` has one. A `question` comes with a text of up to four sentences that holds the answer.
    """
    match inputs:
        case "text-or-pair" | "masked-text":
            return _sentences(count)
        case "text":
            return [(text, None) for text, _ in _sentences(count)]
        case "pair":
            return list(pairwise(text for text, _ in _sentences(count)))
        case "question":
            return _questions(count)


def _sentences(count: int) -> list[tuple[str, str | None]]:
    generator = random.Random(_SEED)  # noqa: S311  # the same sentences in each export
    texts: dict[str, None] = {}
    while len(texts) < count + count // _PAIR_EVERY:
        texts[_sentence(generator)] = None
    singles, partners = list(texts)[:count], list(texts)[count:]
    return [(text, None if i % _PAIR_EVERY else partners[i // _PAIR_EVERY]) for i, text in enumerate(singles)]


def _questions(count: int) -> list[tuple[str, str]]:
    generator = random.Random(_SEED)  # noqa: S311
    texts: dict[tuple[str, str], None] = {}
    while len(texts) < count:
        subject, predicate = _parts(generator)
        context = [_sentence(generator) for _ in range(generator.randrange(4))]
        context.insert(generator.randrange(len(context) + 1), f"{subject[0].upper()}{subject[1:]} {predicate}.")
        texts[f"What {predicate}?", " ".join(context)] = None
    return list(texts)


def _sentence(generator: random.Random) -> str:
    clauses = generator.choices((0, 1, 2, 3), (2, 8, 5, 2))[0]
    if clauses == 0:
        text = generator.choice(_SHORT)
    else:
        text = generator.choice(_HEDGES) + _clause(generator)
        for _ in range(clauses - 1):
            text += generator.choice(_JOINTS) + _clause(generator)
    text = text[0].upper() + text[1:] + generator.choice(_ENDS)
    return text.lower() if generator.random() < 0.1 else text


def _clause(generator: random.Random) -> str:
    return " ".join(_parts(generator))


def _parts(generator: random.Random) -> tuple[str, str]:
    return generator.choice(_SUBJECTS), generator.choice(generator.choice((_GOOD, _BAD, _PLAIN)))
