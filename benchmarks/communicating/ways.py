"""Ways to train the same model on data ranks: ours over our strategies, torch's DDP with its hooks.

(Annotations are not put off here: DDP looks at those of its hooks.)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

from mainspring import optim, parallel
from mainspring.data.batch import causal_batch
from mainspring.models.gpt2.config import gpt2
from mainspring.nn import Transformer, initialize
from mainspring.optim import OptimConfig, schedules
from mainspring.parallel import Plan

VOCAB, SEQ = 256, 64
"""Bytes; tokens of a row."""
LR = 1e-3
BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class Size:
    """Of the model and the runs."""

    width: int
    layers: int
    steps: int
    """Of a run whose loss is followed."""
    timed: int
    """Steps that are timed over a link, in each phase."""
    freeze: int
    """15 % of the steps; where steps are timed, one more than those."""
    rows: int = 2
    """Of a rank's step: so few that a link of 100 Mbit/s, and not computing, sets the pace, which is what
    signs are for. (A parameter's 16 bits are on the wire for 160 ns; its 6 x 128 FLOPs take some 20.)"""


FULL = Size(width=192, layers=4, steps=1000, timed=8, freeze=150)
QUICK = Size(width=192, layers=4, steps=40, timed=3, freeze=6)


@dataclass
class Run:
    """A model with what steps it."""

    model: nn.Module
    step: Callable[[Tensor], float]
    """Takes a rank's rows, gives its loss."""
    sent: Callable[[], float | None]
    """Bytes that this rank has sent, where somebody counts them."""


def make_model(size: Size, seed: int) -> nn.Module:
    """A language model over bytes, 1.8 M parameters in full."""
    config = gpt2(size.width, size.layers, 4, vocab_size=VOCAB, max_positions=SEQ)
    return initialize(Transformer(config), seed)


def ours(kind: str, *, adasum: bool = False, **onebit: Any) -> Callable[[Size, int], Run]:
    """By a plan and `optim.build`."""

    def make(size: Size, seed: int) -> Run:
        signs = kind in ("onebit_adam", "onebit_lamb", "zero_one_adam")
        # As in the published runs gradients travel in 16 bits until signs do.
        how = {"communication": "compressed", "gradient_dtype": "bf16"} if signs else {}
        how |= {"communication": "adasum"} if adasum else {}
        model = make_model(size, seed)
        parallel.apply(model, Plan(data=dist.get_world_size(), **how), reduce="mean")  # type: ignore[arg-type]
        lr = 10 * LR if "lamb" in kind else LR
        settings = {"freeze_step": size.freeze, **onebit} if signs else {}
        config = OptimConfig(kind=kind, lr=lr, betas=BETAS, weight_decay=0.01, onebit=settings)  # type: ignore[arg-type]
        optimizer = optim.build(
            model, config, join=parallel.piece_sum(model), replicas=parallel.replicas(model)
        )
        return Run(model, _stepper(model, optimizer, size), parallel.traffic(model).wire)

    return make


def ddp(hook: str) -> Callable[[Size, int], Run]:
    """torch's DistributedDataParallel and AdamW."""

    def make(size: Size, seed: int) -> Run:
        # PowerSGD's collectives follow one another in callbacks: with two buckets on gloo those of one rank
        # can be in another order than those of the next, and the run breaks off. It gets one bucket.
        cap = 1000 if hook == "PowerSGD" else None
        model = nn.parallel.DistributedDataParallel(make_model(size, seed), bucket_cap_mb=cap)
        if hook == "fp16":
            model.register_comm_hook(None, default_hooks.fp16_compress_hook)
        elif hook == "bf16":
            model.register_comm_hook(None, _bf16)
        elif hook == "PowerSGD":
            state = powerSGD_hook.PowerSGDState(
                None, matrix_approximation_rank=4, start_powerSGD_iter=size.freeze
            )
            model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=BETAS, weight_decay=0.01)
        return Run(model, _stepper(model, optimizer, size), lambda: None)

    return make


def _bf16(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """torch's own bf16 hook wants CUDA; this is the same on gloo."""
    low = bucket.buffer().div(dist.get_world_size()).bfloat16()
    work = dist.all_reduce(low, async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: bucket.buffer().copy_(done.value()[0]))


def _stepper(model: nn.Module, optimizer: torch.optim.Optimizer, size: Size) -> Callable[[Tensor], float]:
    """Steps whose learning rate rises for a third of the steps before the freeze, so that the variance can
    settle, and falls to a tenth."""
    shape = {"kind": "linear", "warmup_steps": size.freeze // 3, "final_ratio": 0.1}
    schedule = OptimConfig(lr=1.0, schedule=shape)  # type: ignore[arg-type]
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    done = 0

    def step(rows: Tensor) -> float:
        nonlocal done
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedules.lr(done, size.steps, schedule)
        done += 1
        logits = model(causal_batch(rows[:, :-1])).logits
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


WAYS: dict[str, Callable[[Size, int], Run]] = {
    "Adam, fp32 all-reduce (DDP)": ddp("none"),
    "Adam, fp32 all-reduce": ours("adamw"),
    "Adam, bf16 all-reduce (DDP)": ddp("bf16"),
    "Adam, fp16 hook (DDP)": ddp("fp16"),
    "Adam, PowerSGD rank 4 (DDP)": ddp("PowerSGD"),
    "1-bit Adam": ours("onebit_adam"),
    "0/1 Adam": ours("zero_one_adam", local_step_scaler=40, local_step_clipper=4),
    "LAMB, fp32 all-reduce": ours("lamb"),
    "1-bit LAMB": ours("onebit_lamb"),
}
"""By name."""
CHANGING = {"Adam, PowerSGD rank 4 (DDP)", "1-bit Adam", "0/1 Adam", "1-bit LAMB"}
"""Of them those that communicate in another way once the variance is frozen, or PowerSGD begins."""
JOINED = {"Adam, mean": ours("adamw"), "Adam, Adasum": ours("adamw", adasum=True)}
"""Ways to join what ranks computed; `benchmarks.convergence` compares them."""
