"""A classifier on padded batches, as every ONNX Runtime peer serves it."""

import os

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

MAX_LENGTH_TOKENS = 512


class PaddedModel:
    """Texts in, label and score out."""

    def __init__(self) -> None:
        self._tokenizer = Tokenizer.from_file(os.environ["TOKENIZER"])
        self._tokenizer.enable_padding()
        self._tokenizer.enable_truncation(MAX_LENGTH_TOKENS)
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ["THREADS"])
        # As in this project's runner: threads that spin between runs would take the cores of the front end.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = ort.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])

    def __call__(self, texts: list[str]) -> list[dict[str, object]]:
        encoded = self._tokenizer.encode_batch(texts)
        [logits] = self._session.run(
            None,
            {
                "input_ids": np.array([text.ids for text in encoded], np.int32),
                "token_type_ids": np.array([text.type_ids for text in encoded], np.int32),
                "attention_mask": np.array([text.attention_mask for text in encoded], np.int32),
            },
        )
        scores = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores /= scores.sum(axis=1, keepdims=True)
        best = scores.argmax(axis=1)
        return [{"label": f"LABEL_{i}", "score": float(row[i])} for i, row in zip(best, scores, strict=True)]
