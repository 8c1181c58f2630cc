"""Files that other engines run: ONNX, in single precision and in 8 bits, each checked."""
