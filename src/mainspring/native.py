"""C++ made while the program runs: given to the machine's compiler, and loaded."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

# Contracting products and sums costs no accuracy. Unsafe maths, which would gain little more, is out of the
# question: a library linked with it makes the whole process round subnormal numbers to zero.
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
"""What every library is compiled with."""


def find_compiler() -> str:
    """Where the compiler is (GCC's, on Linux).

    Raises:
        OSError: there is none.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        raise OSError("there is no g++")
    return compiler


def compile_library(source: Path, library: Path, flags: Sequence[str]) -> None:
    """Compile a file into a shared library.

    Args:
        source: a file in C++.
        library: where to write; there is no file where it fails.
        flags: in place of `FLAGS`.

    Raises:
        OSError: there is no compiler that takes it, with what it said.
    """
    compiler = find_compiler()
    command = [compiler, *flags, "-shared", "-fPIC", str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise OSError(f"{compiler} refused the source {source.name}: {done.stderr.strip()[:2000]}")


def load(source: str, flags: Sequence[str] = ()) -> ctypes.CDLL:
    """Compile a source for this machine, with `flags` besides the usual ones, and load it.

    It takes about a second. Nothing is kept for another process.

    Raises:
        OSError: as `compile_library`.
    """
    with tempfile.TemporaryDirectory(prefix="mainspring-") as folder:
        text, library = Path(folder) / "source.cpp", Path(folder) / "library.so"
        text.write_text(source, encoding="utf-8")
        compile_library(text, library, (*FLAGS, "-march=native", *flags))
        return ctypes.CDLL(str(library))  # stays loaded when the file is gone
