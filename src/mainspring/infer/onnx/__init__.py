"""Models as ONNX graphs: encoders, decoders with a key-value cache, encoder-decoders, task heads, int8."""

from mainspring.infer.onnx.export import OPSET, export_onnx
from mainspring.infer.onnx.quantize import quantize_weights

__all__ = ["OPSET", "export_onnx", "quantize_weights"]
