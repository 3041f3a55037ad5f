"""BERT inference service: HTTP in, packed ONNX Runtime batches inside.

`docs/architecture.md` follows a request through these modules.
"""

__version__ = "0.1.0"
