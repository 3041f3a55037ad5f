"""Bundles in ONNX Runtime: the only package of the server that imports `onnxruntime`.

`choice` takes a variant and a device, `session` loads the graph there, `runner` runs batches, `execution` passes their inputs and
outputs: on a GPU through `staging` and `cuda`. `openvino` runs the fp32 graph of a CPU in bf16. `options` has the settings of ONNX Runtime, `failures` what its errors mean.
"""

import os
import sys

# ONNX Runtime's wheels send telemetry unless this is set before they are imported. Set it to 0 to allow telemetry.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Attention in fp32 on CUDA: if a batch's longest sequence is below this length (256 by default), it would use the kernel
# that keeps all scores at once, which takes tens of GiB for thousands of short texts with a longer one.
os.environ.setdefault("ORT_MIN_SEQ_LEN_EFFICIENT_ATTENTION_FP32", "0")
# Attention in fp16 on cards before Ampere: without this it would use a kernel that copies all of its inputs.
os.environ.setdefault("ORT_DISABLE_FUSED_ATTENTION", "1")
# OpenVINO reports that it was imported to a server of its maker, unless the package that does it cannot be imported.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
