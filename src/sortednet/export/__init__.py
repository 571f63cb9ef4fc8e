"""Other formats: ONNX."""
