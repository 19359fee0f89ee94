"""A child process that trains on one row of some length within a limit of memory, or says that it cannot."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHAPE = {"d_model": 256, "n_heads": 8, "d_ff": 1024, "vocab_size": 64, "head": "none"}
SIDES = ("dense", "sparse")
"""Attention that keeps all scores of a layer, as PyTorch's plain kernel does; ours under the layout."""


def fits(side: str, length: int, mebibytes: int, threads: int, layers: int) -> dict[str, Any] | None:
    """Seconds of a forward with its backward; None where memory does not suffice."""
    arguments = [side, str(length), str(mebibytes), str(threads), str(layers)]
    command = [sys.executable, "-m", "benchmarks.attending.longest", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode not in (0, 3):
        raise RuntimeError(f"{side} of {length} tokens: status {ran.returncode}\n{ran.stderr}")
    found: dict[str, Any] | None = None if ran.returncode else json.loads(ran.stdout.splitlines()[-1])
    print(f"{side} {length} tokens: {'does not fit' if found is None else found}", flush=True)
    return found


def main(side: str, length: int, mebibytes: int, threads: int, layers: int) -> int:
    """Exit status 3 where memory does not suffice."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from benchmarks.attending.sides import LAYOUT
    from mainspring.data.batch import causal_batch
    from mainspring.nn import Rotary, Transformer, TransformerConfig, initialize

    torch.set_num_threads(threads)
    sparse = LAYOUT if side == "sparse" else None
    config = TransformerConfig(
        **SHAPE, n_layers=layers, positions=(Rotary(),), max_positions=length, sparse=sparse
    )
    model = initialize(Transformer(config), 0)
    model.remat = True
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:"))
    limit = used + mebibytes * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    batch = causal_batch(torch.zeros((1, length), dtype=torch.int64))
    started = time.perf_counter()
    try:
        with sdpa_kernel(SDPBackend.MATH):
            model(batch).hidden.square().mean().backward()
    except (RuntimeError, MemoryError) as error:
        if "alloc" not in str(error) and not isinstance(error, MemoryError):
            raise
        return 3
    print(json.dumps({"seconds": time.perf_counter() - started}))
    return 0


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    sys.exit(main(name, *map(int, numbers)))
