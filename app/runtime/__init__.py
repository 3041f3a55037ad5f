"""Bundles in ONNX Runtime: the only package of the server that imports `onnxruntime`.

`choice` takes a variant and a device, `session` loads the graph there, `runner` runs batches, `execution` passes their inputs and
outputs: on a GPU through `staging` and `cuda`. `options` has the settings of ONNX Runtime, `failures` what its errors mean.
"""
