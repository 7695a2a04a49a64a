"""Floor 8: policies that leave Surefoot, as ONNX, C and NumPy."""
