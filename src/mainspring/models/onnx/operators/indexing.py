"""Operators that pick elements out and put them elsewhere."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mainspring.models.onnx.operators.call import Call, Table, given, ints, standard, widened


def gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Slices of an axis by number; of a table's rows, an embedding."""
    axis = call.get("axis", 0) % x.ndim
    indices = indices.to(torch.int64)
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    if axis == 0 and x.ndim == 2 and x.is_floating_point():
        return F.embedding(indices, x)
    found = x.index_select(axis, indices.reshape(-1))
    return found.reshape(x.shape[:axis] + indices.shape + x.shape[axis + 1 :])


def gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Elements of an axis by number."""
    axis = call.get("axis", 0)
    indices = indices.to(torch.int64)
    return torch.gather(x, axis, torch.where(indices < 0, indices + x.shape[axis], indices))


def gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    """Slices by tuples of numbers, beyond some batch axes."""
    batch, indices = call.get("batch_dims", 0), indices.to(torch.int64)
    lead = [
        torch.arange(size, device=x.device).reshape([-1 if m == n else 1 for m in range(indices.ndim - 1)])
        for n, size in enumerate(indices.shape[:batch])
    ]
    return x[(*lead, *indices.unbind(-1))]


def scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Put elements into an axis by number, or join them with what is there."""
    axis, how = call.get("axis", 0), call.get("reduction", "none")
    indices = indices.to(torch.int64)
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    if how == "none":
        return x.scatter(axis, indices, updates)
    return x.scatter_reduce(axis, indices, updates, reduce=_JOINS[how])


_JOINS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    """Put slices at tuples of numbers, or join them with what is there."""
    how, indices = call.get("reduction", "none"), indices.to(torch.int64)
    depth = indices.shape[-1]
    sizes, rest = x.shape[:depth], x.shape[depth:]
    flat = torch.zeros(indices.shape[:-1], dtype=torch.int64, device=x.device)
    for part, size in zip(indices.unbind(-1), sizes, strict=True):
        flat = flat * size + torch.where(part < 0, part + size, part)
    rows, width = math.prod(sizes), math.prod(rest)
    target, source = x.reshape(rows, width), updates.reshape(-1, width)
    where = flat.reshape(-1, 1).expand(-1, width)
    if how == "none":
        return target.scatter(0, where, source).reshape(x.shape)
    return target.scatter_reduce(0, where, source, reduce=_JOINS[how]).reshape(x.shape)


def tensor_scatter(call: Call, past: Tensor, update: Tensor, start: Tensor | None = None) -> Tensor:
    """Write a stretch into a cache, for each row at its own place, perhaps going round."""
    axis = call.get("axis", -2) % past.ndim
    length, size = update.shape[axis], past.shape[axis]
    begin = torch.zeros(past.shape[0], dtype=torch.int64) if start is None else start.to(torch.int64)
    at = begin.reshape(-1, 1).to(past.device) + torch.arange(length, device=past.device)
    if call.get("mode", "linear") == "circular":
        at = at % size
    shape = [past.shape[0] if n == 0 else length if n == axis else 1 for n in range(past.ndim)]
    return past.scatter(axis, at.reshape(shape).expand(update.shape), update)


def slice_of(
    call: Call,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    """A stretch of each axis, perhaps with steps, perhaps backwards."""
    begin, stop = given(call, "starts", starts) or [], given(call, "ends", ends) or []
    along = given(call, "axes", axes) or list(range(len(begin)))
    strides = ints(steps) or [1] * len(begin)
    for first, last, axis, step in zip(begin, stop, along, strides, strict=True):
        size = x.shape[axis]
        if step > 0:
            found = range(size)[first:last:step]
            x = x[(slice(None),) * (axis % x.ndim) + (slice(found.start, found.stop, found.step),)]
        else:
            picked = list(range(size)[first:last:step] if last >= -size else range(size)[first::step])
            x = x.index_select(axis, torch.tensor(picked, dtype=torch.int64, device=x.device))
    return x


def pad(
    call: Call, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None
) -> Tensor:
    """Widen (or with negative numbers narrow) axes with a value, the edge, a reflection or the other end."""
    widths = given(call, "pads", pads) or []
    along = [a % x.ndim for a in (ints(axes) if axes is not None else None) or range(x.ndim)]
    count, mode = len(along), call.get("mode", "constant")
    fill = value.item() if value is not None and value.numel() else call.get("value", 0.0)
    for n, axis in enumerate(along):
        x = _pad_axis(x, axis, widths[n], widths[n + count], mode, fill)
    return x


def _pad_axis(x: Tensor, axis: int, before: int, after: int, mode: str, fill: float) -> Tensor:
    size = x.shape[axis]
    if min(before, after) < 0:
        x = x.narrow(axis, max(-before, 0), size - max(-before, 0) - max(-after, 0))
        before, after, size = max(before, 0), max(after, 0), x.shape[axis]
    if not (before or after):
        return x
    if mode == "constant":
        around = [0, 0] * (x.ndim - axis - 1) + [before, after]
        return F.pad(x, around, value=fill)
    place = torch.arange(-before, size + after, device=x.device)
    if mode == "edge":
        place = place.clamp(0, size - 1)
    elif mode == "wrap":
        place = place % size
    else:
        round_trip = max(2 * (size - 1), 1)
        place = place % round_trip
        place = torch.where(place >= size, round_trip - place, place)
    return x.index_select(axis, place)


def center_crop_pad(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    """Crop or pad with zeros, evenly on both sides, to a shape."""
    wanted = ints(shape) or []
    along = call.get("axes") or list(range(x.ndim))
    for axis, size in zip(along, wanted, strict=True):
        axis = axis % x.ndim
        spare = size - x.shape[axis]
        if spare < 0:
            x = x.narrow(axis, -spare // 2, size)
        else:
            x = _pad_axis(x, axis, spare // 2, spare - spare // 2, "constant", 0)
    return x


def non_zero(call: Call, x: Tensor) -> Tensor:
    """Indices of the elements that are not 0, [axes, n]."""
    return torch.nonzero(x).T.contiguous()


def one_hot(call: Call, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    """A new axis with one value at an index and another elsewhere."""
    size = int(depth)
    at = indices.to(torch.int64)
    hot = (torch.where(at < 0, at + size, at))[..., None] == torch.arange(size, device=at.device)
    axis = call.get("axis", -1)
    result = torch.where(hot, values[1], values[0])
    return result.movedim(-1, axis)


def compress(call: Call, x: Tensor, condition: Tensor) -> Tensor:
    """The slices of an axis (or, without one, the elements) for which a condition holds."""
    axis = call.get("axis")
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    return x.index_select(axis, torch.nonzero(condition).reshape(-1))


def unique(call: Call, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Distinct elements or slices, where each first occurs, which each element is, and how often."""
    axis = call.get("axis")
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    values, back, counts = torch.unique(x, return_inverse=True, return_counts=True, dim=axis)
    places = torch.arange(len(back), device=x.device)
    first = torch.full((len(counts),), len(back), device=x.device).scatter_reduce(0, back, places, "amin")
    if not call.get("sorted", 1):
        order = torch.argsort(first)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=x.device)
        values, first, back, counts = (
            values.index_select(axis, order),
            first[order],
            rank[back],
            counts[order],
        )
    return values, first, back, counts


def reverse_sequence(call: Call, x: Tensor, lengths: Tensor) -> Tensor:
    """Each row's first elements, as many as it has, in reverse."""
    batch, time = call.get("batch_axis", 1), call.get("time_axis", 0)
    steps = torch.arange(x.shape[time], device=x.device)
    at = lengths.to(x.device)[:, None] - 1 - steps
    at = torch.where(at < 0, steps, at)  # [batch, time]
    shape = [x.shape[n] if n in (batch, time) else 1 for n in range(x.ndim)]
    at = (at if batch < time else at.T).reshape(shape).expand(x.shape)
    return torch.gather(x, time, at)


INDEXING: Table = standard(
    {
        ("CenterCropPad", 18): center_crop_pad,
        ("Compress", 9): compress,
        ("Gather", 1): widened(gather),
        ("GatherElements", 11): gather_elements,
        ("GatherND", 11): gather_nd,
        ("NonZero", 9): non_zero,
        ("OneHot", 9): one_hot,
        ("Pad", 2): pad,
        ("ReverseSequence", 10): reverse_sequence,
        ("Scatter", 9): scatter_elements,
        ("ScatterElements", 11): scatter_elements,
        ("ScatterND", 11): scatter_nd,
        ("Slice", 1): slice_of,
        ("TensorScatter", 24): tensor_scatter,
        ("Unique", 11): unique,
    }
)
