"""A classifier on padded batches, as every peer serves it, on the engine that ENGINE names."""

import importlib
import os

import numpy as np
from tokenizers import Tokenizer

MAX_LENGTH_TOKENS = 512


class TextModel:
    """Texts in, label and score out."""

    def __init__(self) -> None:
        self._tokenizer = Tokenizer.from_file(os.environ["TOKENIZER"])
        self._tokenizer.enable_padding()
        self._tokenizer.enable_truncation(MAX_LENGTH_TOKENS)
        module = importlib.import_module(f"{os.environ['ENGINE']}_engine")
        self._engine = module.Engine(os.environ["MODEL"], os.environ["PRECISION"], int(os.environ["THREADS"]))

    def __call__(self, texts: list[str]) -> list[dict[str, object]]:
        logits = self.logits(self.inputs(texts))
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        best = scores.argmax(axis=1)
        return [{"label": f"LABEL_{i}", "score": float(row[i])} for i, row in zip(best, scores, strict=True)]

    def inputs(self, texts: list[str]) -> list[np.ndarray]:
        """Return token ids, token types and attention mask, int32[texts, tokens]."""
        encoded = self._tokenizer.encode_batch(texts)
        rows = [(text.ids, text.type_ids, text.attention_mask) for text in encoded]
        return [np.array(values, np.int32) for values in zip(*rows, strict=True)]

    def logits(self, inputs: list[np.ndarray]) -> np.ndarray:
        """Return float32[texts, labels]."""
        return self._engine(*inputs)
