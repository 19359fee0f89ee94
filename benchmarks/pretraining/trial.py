"""One training of one arm at the FLOPs of its experiment, and what is measured after it.

FLOPs are those of matrix products in forward and backward, as torch counts them (FlopCounterMode) over whole
steps of each arm on its own batches, attention, generators, slow copies and padding included.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.pretraining.arms import EXPERIMENTS, UNTRAINED, Arm, Size
from mainspring import models, objectives, optim
from mainspring.data.batch import TokenBatch
from mainspring.data.config import DataConfig
from mainspring.data.dataset import TokenData
from mainspring.data.loader import row_generators
from mainspring.data.training_rows import TrainingRows
from mainspring.nn import Transformer, initialize
from mainspring.nn.init import stable_seed
from mainspring.nn.relative_attention import windows
from mainspring.objectives import Evolves, Vocabulary
from mainspring.optim import OptimConfig, ScheduleConfig

COUNTED = 4
"""Steps over which FLOPs are counted: batches of pairs differ in their padding."""


@dataclass(frozen=True)
class Task:
    """A trial, as it travels to its process."""

    experiment: str
    arm: str
    seed: int
    size: Size
    folder: str
    """Token shards."""
    texts: str
    """Where the probes' texts lie."""


class Training:
    """An arm in training, on one thread."""

    def __init__(self, arm: Arm, data: TokenData, size: Size, seed: int) -> None:
        self.arm, self.data, self.size, self.seed = arm, data, size, seed
        config = models.resolve(arm.model(size), data.vocab_size)
        plain = arm.objective(Vocabulary.of_tokenizer(data.tokenizer))
        self.objective = objectives.with_auxiliary(plain, config.experts)
        self.model = initialize(objectives.assemble(self.objective, Transformer(config)), seed)
        if isinstance(self.objective, Evolves):
            self.objective.start(self.model)
        pairs = str(data.directory / "pairs") if arm.pairs else None
        share = arm.pairs or 1.0
        reads = DataConfig(path="", seq_len=size.seq_len, pairs=pairs, pairs_share=share)
        self._rows = TrainingRows(data, reads, seed)

    @property
    def network(self) -> nn.Module:
        """What the training is for."""
        inner = getattr(self.model, "network", self.model)
        assert isinstance(inner, nn.Module)
        return inner

    def batch(self, step: int) -> tuple[TokenBatch, int, int]:
        """The rows of a step, and their places in the global order."""
        count = self.size.rows * (2 if self.arm.pairs else 1)
        start, stop = step * count, (step + 1) * count
        return self._rows.batch(start, stop), start, stop

    def gradients(self, step: int) -> None:
        """Forward and backward of a step."""
        torch.manual_seed(stable_seed(self.seed, "step", step))
        batch, start, stop = self.batch(step)
        views = self.objective.build(batch, row_generators(self.seed, start, stop))
        counts = self.objective.counts(views)
        for run in objectives.passes(self.objective, self.model, views):
            parts = [one.total * (one.weight / max(counts[name], 1)) for name, one in run().items()]
            torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]

    def flops(self) -> float:
        """FLOPs of a step, the mean of a few."""
        self.model.train()
        # Of what runs on a CPU torch counts the plain form of attention, not the fused one; and it has to be
        # told of oneDNN's linear and of our own operators.
        products = {
            torch.ops.mkldnn._linear_pointwise: _linear_flops,
            torch.ops.mainspring.relative_attention: _attention_flops,
            torch.ops.mainspring.relative_attention_backward: _attention_backward_flops,
        }
        counting = FlopCounterMode(display=False, custom_mapping=products)
        with sdpa_kernel(SDPBackend.MATH), counting as counter:
            for step in range(COUNTED):
                self.gradients(step)
        self.model.zero_grad(set_to_none=True)
        return counter.get_total_flops() / COUNTED

    def run(self, steps: int) -> None:
        """Train."""
        config = OptimConfig(
            lr=self.size.rate,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            schedule=ScheduleConfig(kind="linear", warmup_steps=max(1, steps // 10), final_ratio=0.0),
        )
        optimizer = optim.build(self.model, config)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.model.train()
        for step in range(steps):
            self.gradients(step)
            nn.utils.clip_grad_norm_(parameters, config.clip, error_if_nonfinite=True)
            for group in optimizer.param_groups:
                group["lr"] = optim.lr(step, steps, config)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if isinstance(self.objective, Evolves):
                self.objective.after_step(self.model, lambda keys: keys, True)


def _linear_flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * weight[0]


def _attention_flops(q: Sequence[int], k: Any, v: Any, falling: Any, rising: Any, *_: Any, **__: Any) -> int:
    """Scores of content, mixed values, and in each term the distances that a block of tokens refers to."""
    heads, rows, length, width = q
    near = sum((stop - start) * (window.stop - window.start) for start, stop, window in windows(length))
    terms = (falling is not None) + (rising is not None)
    return 2 * heads * rows * width * (2 * length * length + terms * near)


def _attention_backward_flops(
    grad: Any, weights: Any, q: Sequence[int], k: Any, v: Any, falling: Any, rising: Any, *_: Any, **__: Any
) -> int:
    return 2 * _attention_flops(q, k, v, falling, rising)


def carry_out(task: Task) -> dict[str, Any]:
    """Train and measure; runs in a process of its own."""
    torch.set_num_threads(1)
    experiment, size = EXPERIMENTS[task.experiment], task.size
    data = TokenData.open(task.folder)
    trained = task.arm != UNTRAINED
    arm = experiment.arms[task.arm] if trained else experiment.plain
    flops = Training(arm, data, size, seed=0).flops()
    plain = flops if arm is experiment.plain else Training(experiment.plain, data, size, seed=0).flops()
    steps = round(size.steps * experiment.times * plain / flops) if trained else 0
    training = Training(arm, data, size, task.seed)
    began = time.perf_counter()
    training.run(steps)
    seconds = time.perf_counter() - began
    measured = experiment.measure(training.network, data, Path(task.texts), size)
    return {
        "measured": measured,
        "steps": steps,
        "flops": flops * steps,
        "train_seconds": seconds,
        "probe_seconds": time.perf_counter() - began - seconds,
        "parameters": sum(p.numel() for p in training.network.parameters()),
    }
