"""ONNX Runtime. The precision is that of the graph."""

import numpy as np
import onnxruntime as ort


class Engine:
    """Padded batches in, logits out."""

    def __init__(self, model: str, precision: str, threads: int) -> None:  # noqa: ARG002
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # As in this project's runner: threads that spin between runs would take the cores of the front end.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, ids: np.ndarray, types: np.ndarray, mask: np.ndarray) -> np.ndarray:
        inputs = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
        [logits] = self._session.run(None, inputs)
        return logits
