"""Write a network as an ONNX graph: `build` chooses the builder by target and precision."""
