"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from mainspring.optim.config import OptimConfig


def lr(step: int, total_steps: int, config: OptimConfig) -> float:
    """Learning rate of update `step`.

    Warm-up gives step `s` the rate `lr * (s + 1) / warmup_steps`, so that the first update is not empty and
    the last of the warm-up runs at the full `lr`. Afterwards, with `t` the part done of the rest, from 0 (the
    last step of the
    warm-up) to 1 (the last step of the run) and `r` the final ratio:

    - constant: `lr`
    - linear: `lr * (1 - (1 - r) t)`
    - cosine: `lr * (r + (1 - r) (1 + cos(pi t)) / 2)` (Loshchilov & Hutter 2017, arXiv 1608.03983, equation
      5)
    - inverse_sqrt: `lr * max(r, sqrt(w / (s + 1)))`, `w = max(warmup_steps, 1)` (Vaswani et al. 2017,
      equation 3)

    Args:
        step: 0 for the first update; steps after the last keep its rate.
        total_steps: updates in the whole run, at least 1.
        config: peak rate and schedule.

    >>> lr(0, 100, OptimConfig(lr=1.0, schedule={"kind": "linear", "warmup_steps": 10, "final_ratio": 0.0}))
    0.1
    """
    shape = config.schedule
    warmup = shape.warmup_steps
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if shape.kind == "constant":
        return config.lr
    if shape.kind == "inverse_sqrt":
        return config.lr * max(shape.final_ratio, math.sqrt(max(warmup, 1) / (step + 1)))
    start, end = max(warmup - 1, 0), total_steps - 1
    done = min(1.0, (step - start) / (end - start)) if end > start else 1.0
    if shape.kind == "linear":
        return config.lr * (1 - (1 - shape.final_ratio) * done)
    return config.lr * (shape.final_ratio + (1 - shape.final_ratio) * (1 + math.cos(math.pi * done)) / 2)
