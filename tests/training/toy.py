"""A language of few words, a network that learns it in seconds, and rows of each task."""

import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

GOOD = ("great", "lovely", "superb", "fine")
BAD = ("awful", "poor", "nasty", "dull")
FILL = ("the", "film", "book", "phone", "my", "order", "it", "was", "and", "really", "so", "we", "think")
PEOPLE = ("anna", "bela", "carl", "dora")
PLACES = ("ulm", "bonn", "kiel", "trier")
VERBS = ("went", "to", "lives", "in", "met", "from", "who", "where", "is", "?")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")


def make_checkpoint(folder: Path, **config: Any) -> Path:
    """Write a BERT with random weights that knows these words and all letters."""
    import torch
    from transformers import BertConfig, BertForPreTraining, BertTokenizerFast

    words = [*GOOD, *BAD, *FILL, *PEOPLE, *PLACES, *VERBS]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), *words]
    sizes = {"vocab_size": len(vocabulary), "max_position_embeddings": 64, **config}
    tokenizer = BertTokenizerFast(
        vocab={word: i for i, word in enumerate(vocabulary)}, model_max_length=sizes["max_position_embeddings"]
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    model = BertForPreTraining(BertConfig(**{**shape, "hidden_dropout_prob": 0.0, **sizes}))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def review(chance: random.Random, word: str) -> str:
    """Return a text that is good or bad by one of its words."""
    words = chance.choices(FILL, k=chance.randint(3, 9))
    words.insert(chance.randrange(len(words)), word)
    return " ".join(words)


def reviews(count: int = 200, seed: int = 0) -> list[dict[str, Any]]:
    """Return reviews, half of them good."""
    chance = random.Random(seed)
    kinds = [("positive", GOOD), ("negative", BAD)]
    return [{"text": review(chance, chance.choice(words)), "label": label} for label, words in kinds * (count // 2)]


def sentences(count: int = 200) -> list[dict[str, Any]]:
    """Return sentences with a person and a place, as tokens and tags."""
    chance = random.Random(0)
    rows = []
    for _ in range(count):
        person, place = chance.choice(PEOPLE), chance.choice(PLACES)
        tokens = chance.choice(
            [[person, "went", "to", place], ["in", place, "we", "met", person], [person, "lives", "in", place]]
        )
        tags = ["B-PER" if token in PEOPLE else "B-LOC" if token in PLACES else "O" for token in tokens]
        rows.append({"tokens": tokens, "ner_tags": tags})
    return rows


def questions(count: int = 200) -> list[dict[str, Any]]:
    """Return questions on where somebody lives or who does, in the form of SQuAD's rows."""
    chance = random.Random(0)
    rows = []
    for i in range(count):
        person, place = chance.choice(PEOPLE), chance.choice(PLACES)
        lead = " ".join(chance.choices(FILL, k=chance.randint(0, 6)))
        context = f"{lead} {person} lives in {place}".strip()
        question, text = ("where", place) if i % 2 else ("who", person)
        rows.append(
            {
                "question": f"{question} is it ?",
                "context": context,
                "answers": {"text": [text], "answer_start": [context.rindex(text)]},
            }
        )
    return rows


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows with a header."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write a row a line."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path
