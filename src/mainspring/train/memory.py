"""How much memory this process has used at most."""

from __future__ import annotations

import torch

from mainspring.planner.memory import peak_resident


def peak_memory(device: torch.device) -> int:
    """Peak bytes: allocated on an accelerator, else resident in this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return peak_resident()
