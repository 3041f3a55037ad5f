"""torch, eager or compiled; the model is transformers', with its weights and all of its arithmetic in bf16."""

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification


class Engine:
    """Padded batches in, logits out."""

    def __init__(self, model: str, precision: str, threads: int) -> None:
        kind, _, compiled = precision.partition("-")
        torch.set_num_threads(threads)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[kind]
        self._model = AutoModelForSequenceClassification.from_pretrained(model, torch_dtype=dtype).eval()
        if compiled:
            self._model = torch.compile(self._model, dynamic=True)
            for shape in ((1, 8), (3, 16)):  # one text is a case of its own
                self(*np.ones((3, *shape), np.int32))

    def __call__(self, ids: np.ndarray, types: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
        with torch.inference_mode():
            answer = self._model(**{name: torch.from_numpy(value).long() for name, value in inputs.items()})
        return answer.logits.float().numpy()
