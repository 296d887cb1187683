"""Engines: ONNX Runtime, OpenVINO and TensorRT behind one Runner."""
