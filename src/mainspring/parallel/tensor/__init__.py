"""Tensor parallelism: parts of a layer's matrices on several ranks, on plain tensors."""

from mainspring.parallel.tensor.cut import cut_tensors

__all__ = ["cut_tensors"]
