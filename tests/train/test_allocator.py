"""Keeping freed memory: steps without page faults, in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from mainspring.config import parse
from mainspring.errors import ConfigError
from mainspring.train import Recipe
from train.tiny import recipe

PROGRAM = """
import resource, sys, torch
from mainspring.train.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()

def work():
    blocks = [torch.ones(9 * 2**20) for _ in range(2)]  # 36 MiB each

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(faults() for _ in range(8)))  # the heap takes some rounds to find its size
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_kept_memory_is_taken_without_page_faults() -> None:
    def faults(how: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True, timeout=120
        )
        return int(done.stdout)

    returned, kept = faults("returned"), faults("kept")
    assert 10 * kept < returned  # 18,432 pages of 4 KiB, or 36 of 2 MiB


def test_it_does_not_go_with_the_disk_tier(tmp_path: Path) -> None:
    plain = recipe(Path("data"), train__keep_memory=True).model_dump(mode="json")
    on_disk = {"zero": 3, "offload": "disk", "offload_folder": str(tmp_path)}
    with pytest.raises(ConfigError, match="keep_memory keeps what plan.offload"):
        parse(Recipe, {**plain, "plan": on_disk})
