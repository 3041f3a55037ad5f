"""Compare a graph with an independent implementation, and every sequence in a batch with the same sequence alone."""

import os

# ONNX Runtime's wheels send telemetry unless this is set before they are imported. Set it to 0 to allow telemetry.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
