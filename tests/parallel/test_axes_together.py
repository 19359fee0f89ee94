"""Several ways of spreading at once, on 4, 8 and 16 ranks: the numbers of one process.

Some cases run always, the whole table where slow tests do.
"""

from __future__ import annotations

import functools

import pytest

from parallel.battery import Case, check
from support.spawn import RankFailure, run_ranks

pytestmark = pytest.mark.distributed

DEEP, EXPERTS, MASKS, BOTH = "ours-deep", "ours-experts", "ours-mask-decoder", "ours-encoder-decoder"
RING = {"sequence_attention": "ring"}
INTERLEAVED = {"pipeline_schedule": "interleaved", "pipeline_chunks": 2}
ZERO_BUBBLE = {"pipeline_schedule": "zero_bubble"}


def plan(*twice, **fields):
    """Axes of two ranks, and what else is told."""
    return dict.fromkeys(twice, 2) | fields


def stages(name, fields, zeros, **other):
    """A case for each ZeRO stage."""
    return [Case(name, fields | {"zero": zero}, accumulation=2, **other) for zero in zeros]


FEW = {
    4: [
        Case(EXPERTS, plan("tensor", "expert"), accumulation=2),
        Case(EXPERTS, plan("tensor", "expert", zero=3, tensor_sequence=True, remat=True), reduce="mean"),
        Case(EXPERTS, plan("tensor", "expert", zero=2), "fp16", accumulation=2),
        Case(EXPERTS, plan("expert", zero=2, offload="host"), accumulation=2),
        Case(EXPERTS, plan("pipeline", "expert", zero=2) | INTERLEAVED, "bf16", accumulation=2, meta=True),
        Case(BOTH, plan("pipeline", "expert", zero=1), accumulation=2),
        Case(EXPERTS, plan("sequence", "expert", zero=2), accumulation=2),
        Case(DEEP, plan("sequence", "pipeline") | RING | ZERO_BUBBLE, accumulation=4),
        Case(DEEP, plan("sequence", "pipeline", zero=3), accumulation=2),
        Case(MASKS, plan("tensor", "sequence", zero=1), reduce="mean"),
        Case(MASKS, plan("pipeline", zero=2), "fp16", accumulation=2),
    ],
    8: [
        Case(EXPERTS, plan("tensor", "pipeline", "expert", zero=1), accumulation=2),
        Case(EXPERTS, plan("tensor", "sequence", "expert", zero=3, tensor_sequence=True), accumulation=2),
        Case(EXPERTS, plan("sequence", "pipeline", "expert", zero=2) | RING, accumulation=2),
        Case(MASKS, plan("tensor", "pipeline", zero=2, remat=True), "bf16", accumulation=2),
    ],
}


def on_four():
    """Two axes, beside data ranks or alone."""
    found = stages(EXPERTS, plan("tensor", "expert"), (1, 2, 3))
    found += stages(EXPERTS, plan("pipeline", "expert"), (0, 1, 2, 3))
    found += stages(EXPERTS, plan("sequence", "expert"), (0, 1))
    found += stages(DEEP, plan("sequence", "pipeline"), (0, 1, 2))
    found += stages("ours-gpt2", plan("tensor"), (2, 3), precision="fp16")
    return [
        *found,
        Case(EXPERTS, plan("tensor", "expert", zero=1), "bf16", accumulation=2, meta=True),
        Case(EXPERTS, plan("pipeline", "expert", zero=1) | ZERO_BUBBLE, accumulation=4),
        Case(EXPERTS, {"pipeline": 4, "remat": True}, accumulation=4),
        Case(EXPERTS, plan("sequence", "expert", zero=3) | RING, reduce="mean"),
        Case(MASKS, plan("sequence", "pipeline", zero=1), "bf16", accumulation=2),
        Case(DEEP, plan("tensor", "sequence"), accumulation=2),
        Case(DEEP, plan("tensor", "sequence", zero=3, tensor_sequence=True) | RING, accumulation=2),
        Case(DEEP, plan("pipeline", zero=1) | ZERO_BUBBLE, "fp16", accumulation=4),
        Case(DEEP, plan("tensor", "pipeline", zero=1) | INTERLEAVED, "fp16", accumulation=2),
        Case(DEEP, plan("pipeline", zero=2, offload="host"), accumulation=2),
    ]


def on_eight():
    """Three axes, and experts over data ranks."""
    found = stages(DEEP, plan("tensor", "pipeline"), (0, 1, 2, 3))
    found += stages(EXPERTS, plan("tensor", "pipeline", "expert"), (0, 2, 3))
    found += stages(EXPERTS, plan("tensor", "sequence", "expert"), (0, 1, 2))
    found += stages(EXPERTS, plan("sequence", "pipeline", "expert"), (0, 1))
    found += stages(EXPERTS, {"tensor": 2, "expert": 4}, (0, 3))
    return [
        *found,
        Case(DEEP, plan("tensor", "sequence", "pipeline") | RING, accumulation=2),
        Case(DEEP, plan("tensor", "sequence", "pipeline", zero=1) | INTERLEAVED, accumulation=2),
        Case(MASKS, plan("tensor", "sequence", "pipeline", tensor_sequence=True, zero=1), accumulation=2),
        Case(DEEP, {"pipeline": 4, "tensor": 2} | ZERO_BUBBLE, accumulation=4),
        Case(EXPERTS, {"pipeline": 4, "expert": 2, "zero": 1}, accumulation=4),
        Case(EXPERTS, plan("tensor", "sequence", "expert", zero=1, remat=True), "bf16", reduce="mean"),
        Case(EXPERTS, plan("tensor", "pipeline", "expert", zero=3), "bf16", accumulation=2, meta=True),
        Case(EXPERTS, plan("tensor", "pipeline", "expert", zero=2), "fp16", accumulation=2),
        Case(EXPERTS, plan("sequence", "pipeline", "expert", zero=1) | RING, "fp16", accumulation=2),
        Case(MASKS, plan("tensor", "pipeline", zero=2, offload="host"), accumulation=2),
        Case(BOTH, plan("tensor", "pipeline", "expert", zero=1), accumulation=2),
    ]


MANY = {
    4: on_four(),
    8: on_eight(),
    16: stages(EXPERTS, plan("tensor", "sequence", "pipeline", "expert"), (0, 1, 3)),  # all axes
}
CASES = {world: [*FEW.get(world, ()), *some] for world, some in MANY.items()}
"""By number of ranks: what the table of the docs is made of."""


PATIENCE = 900
"""Seconds for a group; the few of 8 ranks take one or two minutes on two cores that do nothing else."""


@functools.cache
def outcomes(world, always):
    chosen = FEW if always else MANY
    try:
        return run_ranks(check, world, chosen[world], timeout=PATIENCE)[0]
    except RankFailure as failure:  # said of each case, not tried again for each
        return {case.id: str(failure) for case in chosen[world]}


@pytest.mark.timeout(PATIENCE + 60)
@pytest.mark.parametrize(
    ("world", "always", "case"),
    [
        pytest.param(world, always, case.id, id=f"{world}-{case.id}", marks=marks)
        for chosen, always, marks in ((FEW, True, ()), (MANY, False, pytest.mark.slow))
        for world, some in chosen.items()
        for case in some
    ],
)
def test_as_one_process(world, always, case):
    errors = outcomes(world, always)[case]
    assert not isinstance(errors, str), errors
    assert max(errors.values()) <= 1, errors
