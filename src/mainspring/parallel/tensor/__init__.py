"""Tensor parallelism: parts of a layer's matrices on several ranks, on plain tensors."""

from mainspring.parallel.tensor.cut import cut_tensors
from mainspring.parallel.tensor.rules import Rule

__all__ = ["Rule", "cut_tensors"]
