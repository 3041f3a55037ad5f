"""The contract between the export and the server; the only part of `app` that `model_export` imports.

`manifest` says what a bundle holds, and `files` reads one: regular files alone (`regular_file`), a manifest with its `checksum`, and
graphs that `onnx_contents` has looked into. `added_tokens` and `panics` are what both must know of the `tokenizers` library.
`sequences` is what goes into a graph and comes out of it, `graph_inputs` and `heads` are how a batch of them becomes the graph's
tensors and back. `session` configures ONNX Runtime. `cpus` counts the cores, `control_groups` says what a container may use.
"""

from app.errors import BundleError

__all__ = ["BundleError"]
