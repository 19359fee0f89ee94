"""The update on the host: bf16 gradients in, bf16 weights out, beside PyTorch's and DeepSpeed's with casts.

Kind: ratio. All candidates update the same flat tensors with the same settings:

- ours: `optim.FlatAdam`, compiled, one pass;
- PyTorch: gradients cast to fp32, `torch.optim.AdamW(fused=True)`, weights copied to bf16;
- DeepSpeed: the same around `DeepSpeedCPUAdam` (left out, with the reason, where it is not built);
- the same three with fp32 gradients and no copy;
- the bound: an in-place multiplication of three fp32 numbers an element (24 bytes read and written). The
  numbers are not zeros, of which some processors move more (Zen 5: 7 to 20 %).

DeepSpeed is looked for in an environment of its own, `../peers/deepspeed`.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Bar, finish, interleave, median, options
from mainspring.optim import FlatAdam

PEERS = Path(__file__).resolve().parents[2] / "peers"
SETTINGS: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
BYTES = {"bf16 in and out": 28, "fp32": 28, "bound": 24}


def deepspeed_adam() -> Any:
    """DeepSpeed's class, or the reason why there is none."""
    packages = PEERS / "deepspeed/lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    if not packages.is_dir():
        return f"no {packages}"
    sys.path.append(str(packages))
    os.environ.update(
        TORCH_EXTENSIONS_DIR=str(PEERS / "torch_extensions"),
        DS_ACCELERATOR="cpu",
        PATH=f"{packages.parents[2] / 'bin'}:{os.environ['PATH']}",
    )
    try:
        kind = importlib.import_module("deepspeed.ops.adam").DeepSpeedCPUAdam
        kind([nn.Parameter(torch.ones(8))])
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return kind


class Work:
    """One element count's tensors, of which every candidate uses the same."""

    def __init__(self, elements: int, peer: Any) -> None:
        self.weight = nn.Parameter(torch.randn(elements))
        self.weight.grad_dtype = None  # type: ignore[attr-defined]
        self.gradient = torch.randn(elements)
        self.low = self.gradient.bfloat16()
        self.copy = torch.empty(elements, dtype=torch.bfloat16)
        self.optimizers: dict[str, Any] = {}
        ours = FlatAdam([self.weight], compiled=True, **SETTINGS)
        plain = FlatAdam([self.weight], **SETTINGS)
        fused = torch.optim.AdamW([self.weight], fused=True, **SETTINGS)
        self.optimizers = {"ours": ours, "ours, fp32": plain, "PyTorch": fused}
        if not isinstance(peer, str):
            self.optimizers["DeepSpeed"] = peer([self.weight], adamw_mode=True, **SETTINGS)
        self._share_moments()
        ours.copies = {self.weight: self.copy}
        self.stream = torch.randn(3 * elements)

    def _share_moments(self) -> None:
        first, second = torch.zeros_like(self.gradient), torch.zeros_like(self.gradient)
        for optimizer in self.optimizers.values():
            deepspeed = type(optimizer).__name__ == "DeepSpeedCPUAdam"
            step: int | Tensor = 0 if deepspeed else torch.tensor(0.0)
            optimizer.state[self.weight] = {"step": step, "exp_avg": first, "exp_avg_sq": second}

    def ours_low(self) -> None:
        self.weight.grad = self.low
        self.optimizers["ours"].step()

    def peer_low(self, name: str) -> None:
        self.weight.grad = self.gradient
        self.gradient.copy_(self.low)
        self.optimizers[name].step()
        self.copy.copy_(self.weight.detach())

    def fp32(self, name: str) -> None:
        self.weight.grad = self.gradient
        self.optimizers[name].step()

    def bound(self) -> None:
        self.stream.mul_(1.0000001)

    def candidates(self) -> dict[tuple[str, str], Callable[[], None]]:
        """By what is done and who does it."""
        found: dict[tuple[str, str], Callable[[], None]] = {("bf16 in and out", "ours"): self.ours_low}
        found["fp32", "ours"] = lambda: self.fp32("ours, fp32")
        for name in ("PyTorch", "DeepSpeed"):
            if name in self.optimizers:
                found["bf16 in and out", name] = lambda name=name: self.peer_low(name)  # type: ignore[misc]
                found["fp32", name] = lambda name=name: self.fp32(name)  # type: ignore[misc]
        found["bound", "stream"] = self.bound
        return found


@torch.no_grad()
def check_equal() -> None:
    """Ours gives what PyTorch gives."""
    torch.manual_seed(0)
    start, gradient = torch.randn(1 << 16), torch.randn(1 << 16).bfloat16()
    mine, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    mine.grad_dtype = None  # type: ignore[attr-defined]
    mine.grad, theirs.grad = gradient, gradient.float()
    pair = FlatAdam([mine], compiled=True, **SETTINGS), torch.optim.AdamW([theirs], fused=True, **SETTINGS)
    for _ in range(3):
        for optimizer in pair:
            optimizer.step()
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


def timed(action: Callable[[], None]) -> Callable[[], float]:
    """`action`, giving its seconds."""

    def run() -> float:
        started = time.perf_counter()
        action()
        return time.perf_counter() - started

    return run


def main() -> int:
    arguments = options(__doc__.splitlines()[0])
    peer = deepspeed_adam()
    check_equal()
    sizes = (20,) if arguments.quick else (50, 100, 200)
    rows: list[dict[str, Any]] = []
    bars: list[Bar] = []
    for millions in sizes:
        work = Work(millions * 10**6, peer)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            candidates = {" | ".join(key): timed(action) for key, action in work.candidates().items()}
            for action in candidates.values():
                action()
            seconds = {key: median(times) for key, times in interleave(7, candidates).items()}
            rate = {}
            for key, took in seconds.items():
                what, who = key.split(" | ")
                rate[key] = BYTES[what] * millions * 1e6 / took / 1e9
                rows.append(
                    {
                        "parameters (M)": millions,
                        "threads": threads,
                        "what": what,
                        "who": who,
                        "ms": took * 1e3,
                        "GB/s": rate[key],
                    }
                )
            where = f"{millions} M, {threads} thread{'s' * (threads > 1)}"
            for name in ("PyTorch", "DeepSpeed"):
                if f"fp32 | {name}" in seconds:
                    low = seconds[f"bf16 in and out | {name}"] / seconds["bf16 in and out | ours"]
                    bars.append(Bar(f"{where}: over {name} with casts", low, 1.3))
                    level = seconds[f"fp32 | {name}"] / seconds["fp32 | ours"]
                    bars.append(Bar(f"{where}: fp32 over {name}", level, 0.97))
            reached = rate["bf16 in and out | ours"] / rate["bound | stream"]
            bars.append(Bar(f"{where}: of the bound", reached, 0.85))
        del work, candidates
        gc.collect()
    notes = [
        "GB/s count the bytes that an update must move: p, m, v read and written, gradients read, and the "
        "copy written where there is one (28 an element), not what a candidate moves for its casts."
    ]
    if isinstance(peer, str):
        notes.append(f"DeepSpeedCPUAdam was left out: {peer}.")
    return finish(
        "host_adam",
        title="The update on the host, beside PyTorch's and DeepSpeed's",
        rows=rows,
        bars=bars,
        notes=notes,
        arguments=arguments,
    )


if __name__ == "__main__":
    raise SystemExit(main())
