"""Make the models of engines that read neither a checkpoint nor ONNX Runtime's operators, as their documentation recommends.

    python -m benchmarks.engine_models OUTPUT openvino|openvino-int8|ctranslate2-int8 CHECKPOINT

Runs in the environment of `requirements-torch.txt`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import ctranslate2
import nncf
import numpy as np
import openvino as ov
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification

CALIBRATION = Path(__file__).parent / "data" / "mix.txt"
CALIBRATION_TEXTS = 300
"""NNCF's default."""


def openvino(output: Path, checkpoint: str) -> None:
    """Write the model in OpenVINO's form, converted from torch."""
    output.mkdir()
    ov.save_model(_openvino(checkpoint), output / "model.xml", compress_to_fp16=False)


def openvino_int8(output: Path, checkpoint: str) -> None:
    """Write the model after NNCF's quantization: ranges of activations are those that real texts have."""
    output.mkdir()
    dataset = nncf.Dataset(list(_calibration(checkpoint)))
    quantized = nncf.quantize(
        _openvino(checkpoint), dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION_TEXTS
    )
    ov.save_model(quantized, output / "model.xml", compress_to_fp16=False)


def ctranslate2_int8(output: Path, checkpoint: str) -> None:
    """Write the encoder in CTranslate2's form, and the head beside it."""
    converter = ctranslate2.converters.TransformersConverter(checkpoint)
    converter.convert(str(output), quantization="int8")
    head = _model(checkpoint).classifier
    np.savez(output / "head.npz", weight=head.weight.detach().numpy(), bias=head.bias.detach().numpy())


def _openvino(checkpoint: str) -> ov.Model:
    names = ("input_ids", "token_type_ids", "attention_mask")
    example = {name: torch.ones((2, 8), dtype=torch.int32) for name in names}
    shapes = [(name, [-1, -1], ov.Type.i32) for name in names]
    model = ov.convert_model(_model(checkpoint), example_input=example, input=shapes)
    model.outputs[0].set_names({"logits"})
    return model


def _model(checkpoint: str) -> torch.nn.Module:
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, torch_dtype=torch.float32)
    return model.eval()


def _calibration(checkpoint: str) -> Iterator[dict[str, np.ndarray]]:
    tokenizer = Tokenizer.from_file(f"{checkpoint}/tokenizer.json")
    tokenizer.enable_truncation(512)
    for text in CALIBRATION.read_text(encoding="ascii").splitlines()[:CALIBRATION_TEXTS]:
        encoded = tokenizer.encode(text)
        inputs = {
            "input_ids": encoded.ids,
            "token_type_ids": encoded.type_ids,
            "attention_mask": encoded.attention_mask,
        }
        yield {name: np.array([value], np.int32) for name, value in inputs.items()}


MAKERS = {"openvino": openvino, "openvino-int8": openvino_int8, "ctranslate2-int8": ctranslate2_int8}

if __name__ == "__main__":
    MAKERS[sys.argv[2]](Path(sys.argv[1]), sys.argv[3])
