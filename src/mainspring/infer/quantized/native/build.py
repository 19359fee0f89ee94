"""Building the compiled tier: which instructions this processor has, and a library for them, kept on disk."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from mainspring.native import FLAGS, compile_library, find_compiler

_HERE = Path(__file__).parent
_SOURCES = ("kernels.cpp", "products.h", "step.h")
_V3 = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm"})
_V4 = _V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@dataclass(frozen=True)
class Instructions:
    """A set of instructions that the kernels are written for."""

    name: str
    flags: tuple[str, ...]
    """What tells the compiler."""
    needs: frozenset[str]
    """What the processor must have, in Linux's names."""


PATHS: Sequence[Instructions] = (
    Instructions("avx512-vnni", ("-march=x86-64-v4", "-mavx512vnni"), _V4 | {"avx512_vnni"}),
    Instructions("avx-vnni", ("-march=x86-64-v3", "-mavxvnni"), _V3 | {"avx_vnni"}),
    Instructions("avx2", ("-march=x86-64-v3",), _V3),
    Instructions("scalar", (), frozenset()),
)
"""The fastest first; the last runs anywhere."""


def choose(features: Set[str]) -> Instructions:
    """The fastest path that a processor with these features can run."""
    return next(path for path in PATHS if path.needs <= features)


@functools.cache
def processor_features() -> frozenset[str]:
    """This processor's features in Linux's names; none where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    flags = (line.partition(":")[2].split() for line in lines if line.startswith("flags"))
    return frozenset(next(flags, ()))


def cache_folder() -> Path:
    """Where libraries are kept: ~/.cache/mainspring/kernels."""
    return Path.home() / ".cache" / "mainspring" / "kernels"


def build(path: Instructions, folder: Path) -> Path:
    """A library of the kernels in the folder, made (in about 4 s) unless one of the same sources is there.

    Raises:
        OSError: there is no compiler that takes it (GCC's), with what it said, or the folder cannot be used.
    """
    flags = [*FLAGS, "-fopenmp", *path.flags]
    made_of = hashlib.sha256(" ".join(flags).encode() + _version(find_compiler()))
    for name in _SOURCES:
        made_of.update((_HERE / name).read_bytes())
    library = folder / f"{path.name}-{made_of.hexdigest()[:20]}.so"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    facts = folder.stat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise OSError(
            f"{folder} belongs to somebody else, or others may write to it; libraries need a safe place"
        )
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as place:
            new = Path(place) / library.name
            compile_library(_HERE / "kernels.cpp", new, flags)
            new.replace(library)  # whoever looks sees all of it, or none
    return library


def load() -> tuple[ctypes.CDLL, Instructions]:
    """The library for this processor, built where it has to be.

    Raises:
        OSError: as `build`.
    """
    path = choose(processor_features())
    try:
        return ctypes.CDLL(str(build(path, cache_folder()))), path
    except PermissionError:
        with tempfile.TemporaryDirectory(prefix="mainspring-") as folder:
            return ctypes.CDLL(str(build(path, Path(folder)))), path  # stays loaded when the file is gone


@functools.cache
def _version(compiler: str) -> bytes:
    return subprocess.run([compiler, "-dumpfullversion"], capture_output=True).stdout
