"""C++ made while the program runs: given to the machine's compiler, loaded, and forgotten."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

# Contracting products and sums costs no accuracy. Unsafe maths, which would gain little more, is out of the
# question: a library linked with it makes the whole process round subnormal numbers to zero.
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")


def load(source: str, flags: Sequence[str] = ()) -> ctypes.CDLL:
    """Compile a source for this machine, with `flags` besides the usual ones, and load it.

    It takes about a second. Nothing is kept for another process.

    Raises:
        OSError: there is no compiler that takes it (GCC's, on Linux), with what it said.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise OSError("there is no g++")
    with tempfile.TemporaryDirectory(prefix="mainspring-") as folder:
        text, library = Path(folder) / "source.cpp", Path(folder) / "library.so"
        text.write_text(source, encoding="utf-8")
        command = [compiler, *_FLAGS, *flags, "-shared", "-fPIC", str(text), "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise OSError(f"{compiler} refused the source: {done.stderr.strip()}")
        return ctypes.CDLL(str(library))  # stays loaded when the file is gone
