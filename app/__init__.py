"""BERT inference service: HTTP in, packed ONNX Runtime batches inside.

`docs/architecture.md` follows a request through these modules.
"""

import os

__version__ = "0.1.0"

# ONNX Runtime's wheels report their use to its maker unless this is set before they are imported. Every import of it in
# this project comes after one of this package; whoever wants to report sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Attention in fp32 on CUDA: below this length of a batch's longest sequence (256 unless set) it would take the kernel that
# holds all scores at once, which for thousands of short texts beside a longer one are tens of GiB.
os.environ.setdefault("ORT_MIN_SEQ_LEN_EFFICIENT_ATTENTION_FP32", "0")
# Attention in fp16 on cards before Ampere: without this it would take a kernel that wants a copy of all it reads.
os.environ.setdefault("ORT_DISABLE_FUSED_ATTENTION", "1")
