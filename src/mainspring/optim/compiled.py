"""One source, compiled: C++ with OpenMP on a CPU, Triton on a GPU, each one pass over memory."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mainspring.optim.update import Numbers, update

Update = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor], None]

# Threads are taken as they are at each call. Contracting products and sums costs no accuracy. Unsafe maths,
# which would gain little more, is out of the question: a library linked with it makes the whole process round
# subnormal numbers to zero.
_CPU_OPTIONS: dict[str, Any] = {
    "cpp.dynamic_threads": True,
    "cpp.enable_floating_point_contract_flag": "fast",
}


@functools.cache
def compiled_update(device_type: str, gradient: torch.dtype, out: torch.dtype | None) -> Update | None:
    """`update` compiled for flat fp32 weights, gradients of one dtype and copies of one dtype.

    The first call in a process compiles (5 to 9 s), or reads what an earlier process compiled (about 2 s);
    later calls give the same function. Sizes (from 2 elements on), threads and all numbers may then change
    without another compilation.

    Returns:
        None where there is no working compiler; a warning has said so, once.
    """
    options = _CPU_OPTIONS if device_type == "cpu" else None
    try:
        kernel = torch.compile(update, dynamic=True, fullgraph=True, options=options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of its compiler's imports
            _warm(kernel, torch.device(device_type), gradient, out)
    except Exception as error:  # torch gives a compiler's faults no common class
        warnings.warn(
            f"the optimizer's update could not be compiled for {device_type} ({_brief(error)}): "
            "it runs without, right but slower where gradients or weights are in 16 bits (by 3 to "
            "15 % on two cores). Install a C++ compiler (g++), or set compiled=false in the optimizer's "
            "settings to say that this is meant",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return kernel


@torch.no_grad()
def _warm(kernel: Update, device: torch.device, gradient: torch.dtype, out: torch.dtype | None) -> None:
    h = Numbers(0.1, 0.9, 0.1, 1.0, 0.0, 1e-3, 1.0, 1e-8, 1.0).as_tensor(device)
    p, m, v = (torch.ones(256, device=device) for _ in range(3))
    g = torch.ones(256, dtype=gradient, device=device)
    copy = None if out is None else torch.ones(256, dtype=out, device=device)
    kernel(p, m, v, g, copy, h)


def alone(tensor: Tensor) -> Tensor:
    """A flat dense tensor as one that begins where its storage does and is a view of no other: what a
    compiled function is told of bases and offsets it watches, and compiles again when they change."""
    storage, start = tensor.untyped_storage(), tensor.storage_offset() * tensor.element_size()
    part = storage[start : start + tensor.numel() * tensor.element_size()]
    return torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(part)


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__
