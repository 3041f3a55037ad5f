"""CTranslate2: its encoder ends at the pooler, and the head is a matrix product of NumPy."""

from pathlib import Path

import ctranslate2
import numpy as np


class Engine:
    """Padded batches in, logits out."""

    def __init__(self, model: str, precision: str, threads: int) -> None:
        # What is not int8 is float32.
        self._encoder = ctranslate2.Encoder(model, compute_type=precision, intra_threads=threads, inter_threads=1)
        with np.load(Path(model) / "head.npz") as head:
            self._weight, self._bias = head["weight"], head["bias"]

    def __call__(self, ids: np.ndarray, types: np.ndarray, mask: np.ndarray) -> np.ndarray:
        lengths = ctranslate2.StorageView.from_array(mask.sum(axis=1, dtype=np.int32))
        tokens = ctranslate2.StorageView.from_array(ids)
        token_types = types.tolist()
        pooled = self._encoder.forward_batch(tokens, lengths, token_types).pooler_output
        return np.array(pooled) @ self._weight.T + self._bias
