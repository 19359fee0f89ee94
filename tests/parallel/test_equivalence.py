"""Every plan trains every example as one process does, on 2 and 4 ranks (more: `test_axes_together`)."""

from __future__ import annotations

import functools
from itertools import product

import pytest

from parallel.battery import Case, check
from parallel.examples import EXAMPLES, STAGED
from support.spawn import RankFailure, run_ranks

pytestmark = pytest.mark.distributed

STAGES = (0, 1, 2, 3)
LARGE = ("hf-deberta", "hf-mixtral", "hf-t5")
"""Examples that take longer: some cases only."""
EXPERTS = "ours-experts"
"""Tested in `test_axes_together`."""


def whole(world):
    """Layers that every rank has, sharded or not."""
    found = [Case(name, {"zero": z}) for name in EXAMPLES if name not in LARGE for z in STAGES]
    found += [Case(name, {"zero": z}, accumulation=3) for name in ("ours-gpt2", "awkward") for z in STAGES]
    if world == 2:
        found += [Case(name, {"zero": z}) for name in LARGE for z in (1, 3)]
        found += [Case(name, {"zero": 3, "remat": True}) for name in LARGE]
        found += [Case(name, {"zero": 2}, "bf16") for name in ("hf-mixtral", "hf-t5", "hf-bert")]
        fsdp2 = [{"zero": z, "backend": "fsdp2"} for z in (1, 2, 3)]
        found += [Case(name, plan) for name in ("ours-gpt2", "cnn", "awkward") for plan in fsdp2]
        found += [Case("awkward", plan, "bf16", accumulation=3) for plan in fsdp2]
        found += [Case("cnn", {"zero": z}, accumulation=2, no_sync=False) for z in STAGES]
        found += [
            Case("cnn", {"zero": z}, reduce="mean", accumulation=a, no_sync=a < 3)
            for z in STAGES
            for a in (2, 3)
        ]
        found += [Case("ours-gpt2", {"zero": z}, meta=True) for z in STAGES]
        found += [
            Case(name, {"zero": z, "remat": True})
            for name in ("ours-gpt2", "ours-deberta", "hf-gpt2")
            for z in (0, 3)
        ]
        found += [
            Case(name, {"zero": z}, "bf16", accumulation=2)
            for name in ("ours-gpt2", "ours-deberta", "cnn")
            for z in STAGES
        ]
        found += [Case("awkward", {"zero": z}, "bf16", accumulation=3) for z in STAGES]
    return found


def cut(world):
    """Layers cut over ranks, beside everything else."""
    gpt2, deberta = "ours-gpt2", "ours-deberta"
    if world == 2:
        return [
            Case(gpt2, {"tensor": 2}, meta=True),
            Case(gpt2, {"tensor": 2, "tensor_sequence": True}, reduce="mean"),
            Case(deberta, {"tensor": 2, "remat": True}, "bf16", accumulation=2),
            Case(deberta, {"tensor": 2, "tensor_sequence": True, "remat": True}),
        ]
    half = [Case(gpt2, {"tensor": 2, "zero": z}, accumulation=2) for z in STAGES]
    half += [Case(gpt2, {"tensor": 2, "zero": z}, "bf16", meta=True) for z in (0, 3)]
    half += [Case(deberta, {"tensor": 2, "tensor_sequence": True, "zero": z}) for z in (0, 2)]
    half += [Case(gpt2, {"tensor": 2, "zero": z, "remat": True}, reduce="mean") for z in (1, 3)]
    half += [Case(deberta, {"tensor": 2, "zero": z, "offload": "host"}, accumulation=2) for z in (2, 3)]
    wide = {"tensor": 4, "tensor_sequence": True, "zero": 3, "remat": True}
    return [*half, Case(deberta, {"tensor": 4}), Case(gpt2, wide, "bf16", accumulation=2)]


SCHEDULES = {
    "gpipe": {"pipeline_schedule": "gpipe"},
    "1f1b": {},
    "interleaved": {"pipeline_schedule": "interleaved", "pipeline_chunks": 2},
    "zero_bubble": {"pipeline_schedule": "zero_bubble"},
    "zero_bubble in chunks": {"pipeline_schedule": "zero_bubble", "pipeline_chunks": 2},
}


def staged(world):
    """Layers over ranks one after another, beside everything else."""
    two, deep, masks = {"pipeline": 2}, "ours-deep", "ours-mask-decoder"
    # Balanced, the last stage of the sequence would be its last module alone, whose table is another's.
    halves, quarters = {"pipeline_blocks": (3, 3)}, {"pipeline_blocks": (2, 1, 1, 2)}
    many = [
        Case(
            name,
            two | schedule | (halves if name == "sequence" and len(schedule) < 2 else {}),
            accumulation=4,
        )
        for name in STAGED
        if name != EXPERTS  # the encoder-decoder has some, too
        for schedule in SCHEDULES.values()
    ]
    if world == 2:
        return [
            *many,
            Case("ours-deberta", two | {"pipeline_blocks": (2, 1)}, accumulation=3, reduce="mean"),
            Case("ours-gpt2", two | {"remat": True}, accumulation=2, meta=True),
            Case(deep, two | SCHEDULES["zero_bubble"], "bf16", accumulation=4),
            Case("ours-encoder-decoder", two | {"pipeline_blocks": (1, 3)}, accumulation=2),
        ]
    found = [
        Case(name, {"pipeline": 4}, accumulation=6) for name in STAGED if name not in ("sequence", EXPERTS)
    ]
    found += [Case("sequence", {"pipeline": 4} | quarters, accumulation=4)]
    found += [Case(masks, {"pipeline": 4, "pipeline_schedule": "zero_bubble"}, accumulation=4, meta=True)]
    found += [Case(deep, two | {"zero": z}, accumulation=4) for z in STAGES]
    found += [Case(masks, two | {"zero": z, "remat": True}, accumulation=2, meta=True) for z in STAGES]
    found += [Case("sequence", two | halves | {"zero": z}, accumulation=2) for z in (1, 2)]
    found += [Case(masks, two | {"zero": z}, "bf16", accumulation=2) for z in (0, 1, 3)]
    found += [Case(masks, two | {"zero": z} | SCHEDULES["zero_bubble"], accumulation=4) for z in (0, 1)]
    found += [Case(deep, two | {"zero": z} | SCHEDULES["interleaved"], accumulation=2) for z in (1, 2)]
    found += [Case("ours-encoder-decoder", two | {"zero": 1}, accumulation=2)]
    found += [Case(deep, two | {"tensor": 2}, accumulation=2)]
    found += [Case(masks, two | {"tensor": 2, "tensor_sequence": True}, accumulation=2)]
    return found


def scaled(world):
    """In fp16, under a loss scale that all ranks agree on."""
    if world == 4:
        return []
    return [
        Case("ours-deep", {"sequence": 2, "zero": 2}, "fp16", accumulation=2),
        Case("ours-gpt2", {"tensor": 2, "zero": 1}, "fp16", accumulation=2),
        Case("ours-deep", {"pipeline": 2, "zero": 1}, "fp16", accumulation=2),
    ]


def tiers(world):
    """Every stage, tier, precision and accumulation, of what no other group has (the awkward module overflows
    in fp16 under the first loss scale, so another goes there)."""
    every = product(("none", "host", "disk"), (1, 2, 3), ("fp32", "bf16", "fp16"), (1, 3))
    found = [
        Case(
            "ours-gpt2" if precision == "fp16" else "awkward",
            {"zero": z} | ({} if tier == "none" else {"offload": tier}),
            precision,
            accumulation,
        )
        for tier, z, precision, accumulation in every
    ]
    known = {case.id for case in whole(world)}
    return [case for case in found if case.id not in known]


PATIENCE = 800
"""Seconds for a group: a minute or two on a machine that does nothing else."""
GROUPS = {"whole": whole, "cut": cut, "staged": staged, "scaled": scaled, "tiers": tiers}


def cases(world):
    return [case for group in GROUPS.values() for case in group(world)]


@functools.cache
def outcomes(world, group):
    found = GROUPS[group](world)
    try:
        return run_ranks(check, world, found, timeout=PATIENCE)[0]
    except RankFailure as failure:  # said of each case, not tried again for each
        return {case.id: str(failure) for case in found}


@pytest.mark.timeout(PATIENCE + 60)
@pytest.mark.parametrize(
    ("world", "group", "case"),
    [
        pytest.param(world, group, case.id, id=f"{world}-{case.id}")
        for world in (2, 4)
        for group, found in GROUPS.items()
        for case in found(world)
    ],
)
def test_as_one_process(world, group, case):
    errors = outcomes(world, group)[case]
    assert not isinstance(errors, str), errors
    assert max(errors.values()) <= 1, errors
