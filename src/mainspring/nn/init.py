"""Initialisation that depends on the seed and the parameter's name alone: never on ranks, shards or order.

Each parameter is cut, flat, into chunks; each chunk has its own generator, seeded with a hash of (seed,
name, chunk). A rank that holds a shard or a piece draws only the chunks that it touches.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from mainspring.nn.dtensor import is_dtensor, local_box
from mainspring.nn.span import Cut, Span, cut_of, logical_shape, span_of

CHUNK = 1 << 20
"""Elements drawn from one generator."""

M = TypeVar("M", bound=nn.Module)


class Initial(NamedTuple):
    """How a module's weight starts."""

    std: float = 0.02
    """Standard deviation of its elements."""
    rows: int | None = None
    """Rows from this one on are 0 (None: no such row)."""
    vector: float = 0.0
    """Value of its vectors, which are not drawn."""


def declare(module: nn.Module, initial: Initial) -> None:
    """Note on a module how its weight starts, for `initialize`."""
    cast(Any, module).initial = initial


def declared(module: nn.Module) -> Initial:
    """What `declare` noted on a module, else the default."""
    initial: Initial = getattr(module, "initial", Initial())
    return initial


@torch.no_grad()
def initialize(model: M, seed: int) -> M:
    """Set every parameter of a model, in place, and return the model.

    Norms' weights become 1 and all vectors of biases 0. Other weights are drawn from a normal distribution,
    as `declare` has it. Plain tensors, pieces of flat shards (`mainspring.nn.span`) and DTensors on any mesh
    get the same values. Drawing is on the CPU in fp32, so that devices and dtypes agree too.

    Args:
        model: any module; parameters on meta are left out.
        seed: the run's seed.
    """
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if parameter.is_meta:
                continue
            name = _plain_name(f"{prefix}.{leaf}" if prefix else leaf)
            if isinstance(module, nn.LayerNorm | nn.RMSNorm | nn.GroupNorm) and leaf == "weight":
                parameter.fill_(1.0)
            elif len(logical_shape(parameter)) < 2:
                parameter.fill_(declared(module).vector)
            else:
                _fill_normal(parameter, seed, name, declared(module))
    return model


def stable_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts, the same on every machine and in every process.

    >>> stable_seed(0, "layers.0.weight", 0) == stable_seed(0, "layers.0.weight", 0)
    True
    """
    digest = hashlib.sha256("\0".join(str(p) for p in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _plain_name(name: str) -> str:
    """The name without what wrappers put in it."""
    return name.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")


def _fill_normal(parameter: Tensor, seed: int, name: str, initial: Initial) -> None:
    target, cut = _local(parameter)
    span = span_of(parameter)
    box = torch.Size(cut.sizes)
    if span is None:
        span = Span(box, 0, box.numel())
    if span.numel == 0:
        return
    # Of a box that is cut in dim 0 alone, a run of elements is a run of the whole; of another, whole rows of
    # the parameter are drawn and what of them is not here is left out.
    rows = box == (box[:1] + cut.shape[1:])
    in_place = rows and target.device.type == "cpu" and target.dtype == torch.float32
    width, first = cut.shape[1:].numel(), cut.offsets[0]
    if rows:
        start = first * width + span.start
        flat = target.detach() if in_place and target.is_contiguous() else torch.empty(span.numel)
        _draw_rows(flat.view(-1), start, cut.shape, seed, name, initial)
    else:
        narrow = box[1:].numel()
        low, high = span.start // narrow, -(-span.stop // narrow)
        whole = torch.empty((high - low, *cut.shape[1:]))
        _draw_rows(whole.view(-1), (first + low) * width, cut.shape, seed, name, initial)
        for dim in range(1, len(box)):
            whole = whole.narrow(dim, cut.offsets[dim], box[dim])
        flat = whole.reshape(-1)[span.start - low * narrow : span.stop - low * narrow]
    if flat.data_ptr() != target.data_ptr():
        target.copy_(flat.view(target.shape))


def _local(parameter: Tensor) -> tuple[Tensor, Cut]:
    """What of a parameter is here, and which box it is (or is a run of)."""
    if is_dtensor(parameter):
        sizes, offsets = local_box(parameter)
        return parameter.to_local(), Cut(parameter.shape, tuple(offsets), tuple(sizes), ())
    cut = cut_of(parameter)
    return parameter, Cut.whole(logical_shape(parameter)) if cut is None else cut


def _draw_rows(out: Tensor, start: int, shape: torch.Size, seed: int, name: str, initial: Initial) -> None:
    """The parameter's draws from element `start` on, with 0 in the rows that are declared so."""
    _draw(out, start, shape.numel(), seed, name, initial.std)
    if initial.rows is not None:
        out[max(initial.rows * shape[1:].numel() - start, 0) :].zero_()


def _draw(out: Tensor, start: int, total: int, seed: int, name: str, std: float) -> None:
    """Fill `out` with the elements from `start` on of the parameter's `total` draws."""
    end = start + out.numel()
    for chunk in range(start // CHUNK, (end + CHUNK - 1) // CHUNK):
        low, high = chunk * CHUNK, min((chunk + 1) * CHUNK, total)
        generator = torch.Generator().manual_seed(stable_seed(seed, name, chunk))
        inside = start <= low and high <= end
        # A generator's sequence depends on the length drawn: a chunk is always drawn whole.
        values = out[low - start : high - start] if inside else torch.empty(high - low)
        values.normal_(0.0, std, generator=generator)
        if not inside:
            a, b = max(low, start), min(high, end)
            out[a - start : b - start] = values[a - low : b - low]
