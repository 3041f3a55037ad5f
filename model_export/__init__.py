import app  # noqa: F401 - keeps ONNX Runtime from reporting, and must come before it
