"""The moments of parameters, laid out in memory as the parameters are, and what an update needs of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from mainspring.nn.dtensor import is_dtensor
from mainspring.optim.pages import zeros
from mainspring.optim.runs import Entry, adjacent, flat, local, plain


def computed_again(closure: Callable[[], Any] | None) -> Any:
    """The loss that a step's closure computes, with gradients; None where there is no closure."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All that an optimizer holds, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def entry_of(parameter: nn.Parameter, state: dict[str, Any], copy: Tensor | None) -> Entry:
    """A parameter with its gradient and moments, seen flat.

    Args:
        parameter: whole, a DTensor or a piece; with a gradient.
        state: `step`, `exp_avg`, `exp_avg_sq`.
        copy: where new weights go in another dtype as well.

    Raises:
        ValueError: the gradient is sparse, or the parameter has gaps in memory.
    """
    gradient = parameter.grad
    assert gradient is not None
    if gradient.is_sparse:
        raise ValueError("this optimizer takes dense gradients; make the embedding with sparse=False")
    tensors = [local(t) for t in (parameter, state["exp_avg"], state["exp_avg_sq"], gradient)]
    p, m, v, g = tensors
    if g.stride() != p.stride():
        g = torch.empty_like(p, dtype=g.dtype).copy_(g)
    out = None if copy is None else local(copy)
    seen = [flat(t) if t.stride() == p.stride() else None for t in (p, m, v, g)]
    step = int(state["step"].item()) + 1
    if any(t is None for t in seen) or (out is not None and not out.is_contiguous()):
        raise ValueError(
            f"a parameter of shape {list(p.shape)} and strides {list(p.stride())} does not fill a "
            "stretch of memory; make it contiguous before the optimizer is made"
        )
    fp, fm, fv, fg = (t for t in seen if t is not None)
    return Entry(fp, fm, fv, fg, None if out is None else plain(out), step)


def allocate(states: MutableMapping[Any, Any], parameters: Iterable[nn.Parameter]) -> None:
    """Give those of `parameters` without states theirs, side by side in memory where the parameters are."""
    simple: dict[int, nn.Parameter] = {}
    for parameter in parameters:
        if states[parameter]:
            continue
        state = states[parameter]
        state["step"] = torch.tensor(0.0)
        shard = not is_dtensor(parameter) and parameter.ndim == 1 and parameter.is_contiguous()
        if shard and parameter.numel():
            simple[parameter.data_ptr()] = parameter
            continue
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.zeros_like(
                parameter, requires_grad=False, memory_format=torch.preserve_format
            )
    for chain in adjacent(p.detach() for p in simple.values()):
        for name in ("exp_avg", "exp_avg_sq"):
            whole = zeros(sum(t.numel() for t in chain), chain[0].dtype, chain[0].device)
            parts = torch.split(whole, [t.numel() for t in chain])
            for tensor, part in zip(chain, parts, strict=True):
                states[simple[tensor.data_ptr()]][name] = part
