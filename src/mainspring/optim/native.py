"""Functions in C++ made while the program runs: given to the machine's compiler, loaded, and forgotten."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mainspring.optim.source import cpp
from mainspring.optim.update import Formula

Update = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor], Tensor | None]

# Contracting products and sums costs no accuracy. Unsafe maths, which would gain little more, is out of the
# question: a library linked with it makes the whole process round subnormal numbers to zero.
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")


def native(formula: Formula, gradient: torch.dtype, out: torch.dtype | None) -> Update:
    """`update.run` of a formula for flat fp32 weights on a CPU, with as many threads as torch then has.

    Compiling takes about a second. Nothing is kept for another process.

    Raises:
        OSError: there is no compiler that takes it (GCC's, on Linux), with what it said.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise OSError("there is no g++")
    with tempfile.TemporaryDirectory(prefix="mainspring-") as folder:
        source, library = Path(folder) / "update.cpp", Path(folder) / "update.so"
        source.write_text(cpp(formula, gradient, out), encoding="utf-8")
        command = [compiler, *_FLAGS, "-fopenmp", "-shared", "-fPIC", str(source), "-o", str(library)]
        if torch.backends.cpu.get_cpu_capability() == "AVX512":
            command.insert(1, "-mprefer-vector-width=512")
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise OSError(f"{compiler} refused the update: {done.stderr.strip()}")
        function = ctypes.CDLL(str(library)).run  # stays loaded when the file is gone
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
