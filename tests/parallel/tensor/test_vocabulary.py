"""Losses, samples and look-ups over a vocabulary that is cut over ranks, against the whole one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mainspring import comm
from mainspring.data.batch import IGNORE
from mainspring.objectives.cross_entropy import cross_entropies, smoothed_cross_entropy
from mainspring.objectives.generator import sample_tokens
from mainspring.parallel import Axes, Plan
from mainspring.parallel.tensor.operators import Line
from mainspring.parallel.tensor.rows import Rows
from support.spawn import run_ranks

pytestmark = pytest.mark.distributed

TOKENS, PADDED, PAD = 50, 53, 3


def given():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(9, TOKENS, generator=draw) * 4
    logits[0, 7], logits[1] = 1e4, -1e4  # one sure, one unsure of everything
    labels = torch.randint(4, TOKENS, (9,), generator=draw)
    labels[4] = IGNORE
    return logits, labels, torch.rand(9, generator=draw, dtype=torch.float64)


def outcomes(rank, world):
    axes, counter = Axes.of(Plan(tensor=world)), comm.Counter()
    rows = Rows(Line(axes.group("tensor"), rank, world, counter, "vocabulary"), PADDED, TOKENS)
    logits, labels, draws = given()
    stop = min(PADDED * (rank + 1) // world, TOKENS)
    own = slice(rows.first, stop)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        for name, smoothing in (("plain", 0.0), ("smoothed", 0.1)):
            whole, mine = (t.clone().requires_grad_() for t in (logits.to(dtype), logits[:, own].to(dtype)))
            with counter.measure() as seen:
                loss = smoothed_cross_entropy(mine, labels, smoothing, PAD, rows)
            want = smoothed_cross_entropy(whole, labels, smoothing, PAD)
            loss.backward()
            want.backward()
            error = (mine.grad.float() - whole.grad[:, own].float()).abs().max()
            found[f"{name} {dtype}"] = float((loss - want).abs() / want), float(error), seen.wire()
    found["terms"] = torch.equal(
        cross_entropies(logits[:, own], labels, rows).gt(0), cross_entropies(logits, labels).gt(0)
    )
    found["samples"] = torch.equal(sample_tokens(logits[:, own], draws, rows), sample_tokens(logits, draws))
    table = nn.Embedding(PADDED, 5)
    torch.manual_seed(1)
    nn.init.normal_(table.weight)
    part = nn.Embedding.from_pretrained(table.weight[PADDED * rank // world : PADDED * (rank + 1) // world])
    ids = torch.arange(PADDED).view(1, -1)
    found["vectors"] = torch.equal(rows.embed(part, ids), table(ids))
    return found


def test_three_ranks_are_as_one():
    for found in run_ranks(outcomes, 3):
        for name in ("terms", "samples", "vectors"):
            assert found.pop(name), name
        for name, (loss, gradient, wire) in found.items():
            assert loss < 1e-6, (name, loss)
            assert gradient < (2e-6 if "float32" in name else 2**-8), (name, gradient)
            # The largest and two sums: three numbers of four bytes a row, each sent 2 (N - 1) / N times.
            assert wire == pytest.approx(9 * 3 * 4 * 2 * 2 / 3)
