"""OpenVINO. Its int8 is that of the graph, beside which everything else is computed in bf16 where the processor has it.

That is OpenVINO's own default (`INFERENCE_PRECISION_HINT`): `int8` leaves it alone.
"""

import numpy as np
import openvino as ov


class Engine:
    """Padded batches in, logits out."""

    def __init__(self, model: str, precision: str, threads: int) -> None:
        config: dict[str, object] = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
        if precision != "int8":
            config["INFERENCE_PRECISION_HINT"] = {"fp32": "f32", "bf16": "bf16"}[precision]
        self._request = ov.Core().compile_model(f"{model}/model.xml", "CPU", config).create_infer_request()

    def __call__(self, ids: np.ndarray, types: np.ndarray, mask: np.ndarray) -> np.ndarray:
        [logits] = self._request.infer({"input_ids": ids, "token_type_ids": types, "attention_mask": mask}).values()
        return logits
