"""Scoring the held-out text while training, spread over the ranks."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mainspring import comm, parallel
from mainspring.data.batch import TokenBatch
from mainspring.data.dataset import TokenData
from mainspring.data.loader import holdout_batch, holdout_count, row_generators
from mainspring.objectives import CausalLM, Loss, Objective, Views, passes
from mainspring.objectives.base import labelled
from mainspring.parallel.strategy import strategy_of
from mainspring.train.events import Evaluated
from mainspring.train.feed import own_tokens


def score(
    model: nn.Module,
    objective: Objective,
    data: TokenData,
    *,
    step: int,
    seq_len: int,
    rows: int,
    max_tokens: int,
    device: torch.device,
) -> Evaluated | None:
    """Mean loss on the first held-out rows; every rank calls it, and all get the same result.

    Args:
        model: put into evaluation mode and back. Of N data ranks each scores every N-th batch.
        objective: its first loss is scored; chance is that of the rows' indices, the same each time.
        data: with its held-out split.
        step: noted in the result.
        seq_len: tokens in a row.
        rows: rows of one forward.
        max_tokens: read no more than about so many (0: all).
        device: where the model is.

    Returns:
        The score, or None if the data has no held-out text.
    """
    total = holdout_count(data, seq_len)
    if max_tokens:
        total = min(total, max(1, max_tokens // seq_len))
    if total == 0:
        return None
    began = time.perf_counter()
    starts = list(range(0, total, rows))
    axes, training = parallel.axes_of(model), model.training
    rank, world = axes.index("data"), axes.size("data")
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    try:
        with torch.no_grad():
            # Sharded models talk in every forward: where batches run out, a rank repeats one without
            # counting it.
            for turn in range(math.ceil(len(starts) / world)):
                index = turn * world + rank
                start = starts[index % len(starts)]
                stop = min(start + rows, total)
                batch = holdout_batch(data, seq_len, start, stop)
                views = own_tokens(
                    objective.build(batch, row_generators(0, start, stop)), axes, strategy_of(model).plan
                )
                views = {k: v.to(device) for k, v in views.items()}
                scores = parallel.measure(model, [views], lambda some, given: _first(objective, some, given))
                for name, loss in scores if index < len(starts) else ():
                    size = data.tokenizer.token_bytes(_predicted(views[name])) if name in views else 0
                    scored = [float(loss.total), loss.count, size]
                    sums += torch.tensor(scored, dtype=torch.float64, device=device)
    finally:
        model.train(training)
    for axis in ("replicas", "pipeline"):
        if (group := axes.group(axis)) is not None:
            comm.all_reduce(sums, name="holdout", group=group)
    nats, tokens, size = sums.tolist()
    mean = nats / max(tokens, 1)
    causal = isinstance(objective, CausalLM) and size > 0
    return Evaluated(
        step,
        loss=mean,
        perplexity=math.exp(min(mean, 700.0)),
        bits_per_byte=nats / math.log(2) / size if causal else None,
        tokens=int(tokens),
        bytes=int(size),
        seconds=time.perf_counter() - began,
    )


def _first(objective: Objective, model: nn.Module, views: Views) -> tuple[str, Loss]:
    """The first loss, with its name."""
    return next(iter(passes(objective, model, views)[0]().items()))


def _predicted(view: TokenBatch) -> NDArray[np.int64]:
    """Every token that the view asks for."""
    assert view.labels is not None
    return np.asarray(view.labels[labelled(view)])
