"""A formula compiled for this machine."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import torch
from torch import Tensor

from mainspring.native import load
from mainspring.optim.source import cpp
from mainspring.optim.update import Formula

Update = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor], Tensor | None]


def native(formula: Formula, gradient: torch.dtype, out: torch.dtype | None) -> Update:
    """`update.run` of a formula for flat fp32 weights on a CPU, with as many threads as torch then has.

    Compiling takes about a second. Nothing is kept for another process.

    Raises:
        OSError: there is no compiler that takes it (GCC's, on Linux), with what it said.
    """
    flags = ["-fopenmp"]
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        flags.append("-mprefer-vector-width=512")
    function = load(cpp(formula, gradient, out), flags).run
    function.restype = None
    pointer = ctypes.c_void_p
    function.argtypes = [*[pointer] * 5, ctypes.c_int64, pointer, pointer, ctypes.c_int]

    def update(p: Tensor, m: Tensor, v: Tensor, g: Tensor, copy: Tensor | None, h: Tensor) -> Tensor | None:
        sums = torch.zeros(max(1, formula.sums), dtype=torch.float64)
        where = (
            p.data_ptr(),
            m.data_ptr(),
            v.data_ptr(),
            g.data_ptr(),
            copy.data_ptr() if copy is not None else None,
        )
        function(*where, p.numel(), h.data_ptr(), sums.data_ptr(), torch.get_num_threads())
        return sums if formula.sums else None

    return update
