"""Which processor this is, and what speeds of 16 and 8 bits depend on in it; torch does not tell."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as the system gives it."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    return platform.processor() or platform.machine()


FAST = ("avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
"""Instructions that multiply 16-bit or 8-bit numbers faster than fp32 ones; with neither of bf16 it is
emulated."""


def fast_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Those of `FAST` that the system lists among the processor's flags (none where it lists no flags)."""
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "flags":
                flags = set(value.split())
                return tuple(name for name in FAST if name in flags)
    return ()


def multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bf16 itself; where it is emulated it is far slower than fp32."""
    return bool({"avx512_bf16", "amx_bf16"} & set(fast_instructions(cpuinfo)))
