"""Main memory and disk: what a process may still take, and how much memory it has taken."""

from __future__ import annotations

import os
import resource
import shutil
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_memory(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> int:
    """Bytes of main memory that may still be taken.

    The least of what the system has left and what the cgroup (version 2, else 1) allows beyond its present
    use.
    """
    if not meminfo.is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    lines = meminfo.read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    available = int(fields.get("MemAvailable", fields["MemTotal"]).split()[0]) * 1024
    for limit_name, use_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit, use = _number(cgroup / limit_name), _number(cgroup / use_name)
        if limit is not None:
            return max(0, min(available, limit - (use or 0)))
    return available


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # version 2 writes "max" for no limit


def available_disk(folder: str | Path = ".") -> int:
    """Bytes that the file system of a folder, or of its nearest parent that is there, can still take."""
    place = Path(folder).absolute()
    while not place.is_dir():
        place = place.parent
    return shutil.disk_usage(place).free


def peak_resident() -> int:
    """Most bytes that this process has had resident.

    Not `ru_maxrss` on Linux: that begins with what the parent held when it started the process.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
