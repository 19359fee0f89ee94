"""Where the first number that is not finite came from: a parameter, an activation, or a gradient.

The failing micro-batches are run once more with hooks on every module. Parameters come first, for a poisoned
parameter spoils all that follows; then activations in the order of computation, then gradients in the order
of the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mainspring.nn.span import logical_shape
from mainspring.train.checkpoint.tiers import tiers


@dataclass
class Trace:
    """What a diagnostic pass saw, each in the order in which it happened."""

    forward: list[str] = field(default_factory=list)
    backward: list[str] = field(default_factory=list)


def describe(model: nn.Module, rerun: Callable[[], None]) -> str:
    """Name the first tensor that is not finite, and its module; every rank calls this and gets the same
    answer.

    Args:
        model: its gradients are cleared.
        rerun: runs forward and backward of the failing micro-batches again.
    """
    if poisoned := _agree(_first(_parameters(model))):
        return poisoned
    model.zero_grad(set_to_none=True)
    trace = Trace()
    with _watched(model, trace):
        rerun()
    found = trace.forward[:1] or trace.backward[:1]
    result = _agree(found[0] if found else _first(_gradients(model)))
    model.zero_grad(set_to_none=True)
    return result or "all tensors are finite on a second pass: their sum overflows"


def is_finite(tensor: Tensor) -> bool:
    """Whether every element is a number; of a DTensor, every element of this rank's shard."""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    # A sum is finite only if all terms are, and costs one pass without a mask; an overflow is told apart
    # after.
    return bool(torch.isfinite(local.detach().float().sum())) or bool(torch.isfinite(local.detach()).all())


def _parameters(model: nn.Module) -> Iterator[str]:
    for tier in tiers(model, None):
        with tier.opened(write=False):
            yield from _poisoned(model, zip(tier.shard.names, tier.shard.pieces, strict=True))
    if not tiers(model, None):
        yield from _poisoned(model, model.named_parameters())


def _poisoned(model: nn.Module, named: Iterable[tuple[str, Tensor]]) -> Iterator[str]:
    for name, parameter in named:
        if not is_finite(parameter):
            module, _, leaf = name.rpartition(".")
            yield f"parameter {leaf!r} of module {_spell(model, module)}: {_count(parameter, parameter)}"


def _gradients(model: nn.Module) -> Iterator[str]:
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not is_finite(parameter.grad):
            module, _, leaf = name.rpartition(".")
            place = f"parameter {leaf!r} of module {_spell(model, module)}"
            yield f"gradient of {place}: {_count(parameter.grad, parameter)}"


@contextmanager
def _watched(model: nn.Module, trace: Trace) -> Iterator[None]:
    """Hooks that note every output, and every gradient of an output, that is not finite."""
    handles = []
    for name, module in model.named_modules():
        spelt = _spell(model, name)

        def note(_: nn.Module, inputs: Any, output: Any, spelt: str = spelt) -> None:
            for place, tensor in _tensors(output):
                if not is_finite(tensor):
                    trace.forward.append(f"output{place} of module {spelt}: {_count(tensor)}")
                if tensor.requires_grad:
                    what = f"gradient of the output{place} of module {spelt}"
                    tensor.register_hook(_grad_note(trace, what))  # type: ignore[no-untyped-call]

        handles.append(module.register_forward_hook(note))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _grad_note(trace: Trace, what: str) -> Callable[[Tensor], None]:
    def note(gradient: Tensor) -> None:
        if not is_finite(gradient):
            trace.backward.append(f"{what}: {_count(gradient)}")

    return note


def _tensors(output: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield "", output
    elif isinstance(output, tuple | list):
        names = getattr(output, "_fields", range(len(output)))
        for name, value in zip(names, output, strict=True):
            for rest, tensor in _tensors(value):
                yield f" {name}{rest}", tensor


def _spell(model: nn.Module, name: str) -> str:
    kind = type(model.get_submodule(name)).__name__
    return f"{name!r} ({kind})" if name else f"the model ({kind})"


def _count(tensor: Tensor, owner: Tensor | None = None) -> str:
    """How much is amiss in what is here of a tensor, which has the shape of `owner`."""
    local = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
    shape = list(logical_shape(tensor if owner is None else owner))
    nan, infinite = int(local.isnan().sum()), int(local.isinf().sum())
    return f"{nan} NaN and {infinite} infinite of {local.numel()} elements, shape {shape}"


def _first(found: Iterable[str]) -> str:
    return next(iter(found), "")


def _agree(found: str) -> str:
    """The finding of the lowest rank that has one."""
    if not dist.is_initialized():
        return found
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, found)
    return next((f"{text} (rank {rank})" for rank, text in enumerate(everyone) if text), "")
