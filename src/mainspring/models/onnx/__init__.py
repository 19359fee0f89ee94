"""ONNX graphs from any framework as trainable modules, and their weights back into the same graphs."""

from mainspring.models.onnx.module import OnnxModule
from mainspring.models.onnx.operators import OPERATORS
from mainspring.models.onnx.read import OnnxGraph, read_onnx
from mainspring.models.onnx.write import write_onnx

__all__ = ["OPERATORS", "OnnxGraph", "OnnxModule", "read_onnx", "write_onnx"]
