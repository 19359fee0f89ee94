"""A formula compiled into one pass over memory: our C++ on a CPU, torch's compiler (Triton) on a GPU."""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from mainspring.optim.native import Update, native
from mainspring.optim.update import Formula, Numbers, run


@functools.cache
def compiled_update(
    formula: Formula, device_type: str, gradient: torch.dtype, out: torch.dtype | None
) -> Update | None:
    """`update.run` of a formula, compiled for flat fp32 weights, and one dtype each of gradients and copies.

    The first call in a process compiles (1 to 2 s on a CPU, 5 to 9 s for a GPU); later calls give the same
    function. Sizes, threads and all numbers may then change without another compilation.

    Returns:
        None where there is no working compiler; a warning has said so, once.
    """
    try:
        return (
            native(formula, gradient, out)
            if device_type == "cpu"
            else _by_torch(formula, device_type, gradient, out)
        )
    except Exception as error:  # torch gives a compiler's faults no common class
        warnings.warn(
            f"the optimizer's update could not be compiled for {device_type} ({_brief(error)}): "
            "it runs without, right but slower where gradients or weights are in 16 bits. Install g++, or "
            "set compiled=false in the optimizer's settings to say that this is meant",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def _by_torch(formula: Formula, device_type: str, gradient: torch.dtype, out: torch.dtype | None) -> Update:
    kernel = torch.compile(functools.partial(run, formula), dynamic=True, fullgraph=True)

    def update(p: Tensor, m: Tensor, v: Tensor, g: Tensor, copy: Tensor | None, h: Tensor) -> Tensor | None:
        return kernel(*map(_alone, (p, m, v, g)), None if copy is None else _alone(copy), h)

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of its compiler's imports
        device = torch.device(device_type)
        h = Numbers(0.1, 0.9, 0.1, 1.0, 0.0, 1e-3, 1.0, 1e-8, 1.0).as_tensor(device)
        p, m, v = (torch.ones(256, device=device) for _ in range(3))
        g = torch.ones(256, dtype=gradient, device=device)
        update(p, m, v, g, None if out is None else torch.ones(256, dtype=out, device=device), h)
    return update


def _alone(tensor: Tensor) -> Tensor:
    """A flat dense tensor as one that begins where its storage does and is a view of no other: what a
    compiled function is told of bases and offsets it watches, and compiles again when they change."""
    storage, start = tensor.untyped_storage(), tensor.storage_offset() * tensor.element_size()
    part = storage[start : start + tensor.numel() * tensor.element_size()]
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(part)


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__
