"""What bounds inference on this machine: bytes read and multiplications a second, with 2 threads."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch

from mainspring.infer.quantized.integers import round_to_int8
from mainspring.infer.quantized.native import best_kernels
from mainspring.nn.linear import linear


def best(action: Callable[[], object], times: int = 7) -> float:
    """The shortest of several runs, in seconds."""
    action()
    took = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        took.append(time.perf_counter() - started)
    return min(took)


def main() -> None:
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    stream = torch.ones(1 << 26)  # 256 MB
    rows, inner, width = 1024, 3072, 768
    x, weight = torch.randn(rows, width), torch.randn(inner, width)
    values, scales = round_to_int8(weight)
    kernels, work = best_kernels(), 2 * rows * inner * width
    limits = {
        "read GB/s": stream.nbytes / best(lambda: stream.sum()) / 1e9,
        "fp32 GFLOP/s": work / best(lambda: linear(x, weight)) / 1e9,
        "int8 GOP/s": work / best(lambda: kernels.int8(x, values, scales, None)) / 1e9,
        "kernels": kernels.name,
    }
    print(json.dumps(limits))


if __name__ == "__main__":
    main()
