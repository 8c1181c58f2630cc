"""Export for other engines: ONNX in float32 and in 8 bits, checked after writing."""
