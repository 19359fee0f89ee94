"""Giving a parameter its values, however it is spread over ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from mainspring.nn.dtensor import is_dtensor, local_box
from mainspring.nn.span import cut_of, logical_shape, span_of


@torch.no_grad()
def assign(parameter: Tensor, whole: Tensor) -> None:
    """Copy into a parameter, or this rank's part of it, the values of the whole, of the same logical shape.

    Args:
        parameter: plain, a box or a piece of a flat shard (`mainspring.nn.span`), or a DTensor.
        whole: all its values, on any device.

    Raises:
        ValueError: the shapes differ.
    """
    if logical_shape(parameter) != whole.shape:
        raise ValueError(f"values of shape {list(whole.shape)} for {list(logical_shape(parameter))}")
    cut, span = cut_of(parameter), span_of(parameter)
    whole = whole if cut is None else cut.of(whole)
    if span is not None:
        parameter.copy_(whole.reshape(-1)[span.start : span.stop])
        return
    if not is_dtensor(parameter):
        parameter.copy_(whole)
        return
    shape, offset = local_box(parameter)
    for dim, (start, length) in enumerate(zip(offset, shape, strict=True)):
        whole = whole.narrow(dim, min(start, whole.shape[dim]), length)
    parameter.to_local().copy_(whole)
