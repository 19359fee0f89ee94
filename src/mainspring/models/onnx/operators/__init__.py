"""The operators that graphs are built of: a table of small functions by domain, name and opset."""

from mainspring.models.onnx.operators.call import Call, Function, Table
from mainspring.models.onnx.operators.table import OPERATORS, resolve

__all__ = ["OPERATORS", "Call", "Function", "Table", "resolve"]
