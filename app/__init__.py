"""BERT inference service: HTTP in, packed ONNX Runtime batches inside.

`docs/architecture.md` follows a request through these modules.
"""

import os

__version__ = "0.1.0"

# ONNX Runtime's wheels report their use to its maker unless this is set before they are imported. Every import of it in
# this project comes after one of this package; whoever wants to report sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
