"""Every pair of what a plan can be told: how it is refused, or which cases of the battery have both."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from mainspring import parallel
from mainspring.errors import PlanError
from mainspring.parallel import Plan
from mainspring.planner.fake import fake_world
from parallel import test_axes_together, test_equivalence, test_offload
from parallel.battery import Case, plan_of
from parallel.expert import test_spread
from parallel.sequence import test_exact
from parallel.tensor.test_rules import GPT2

DEEP, EXPERTS = "ours-deep", "ours-experts"
RING = {"sequence_attention": "ring"}
TOKENS = {"tensor_sequence": True}
GPIPE = {"pipeline_schedule": "gpipe"}
INTERLEAVED = {"pipeline_schedule": "interleaved", "pipeline_chunks": 2}
ZERO_BUBBLE = {"pipeline_schedule": "zero_bubble"}
LATE = {"offload": "host", "offload_delay": 9}
"""A delay that a case does not reach: its buffers, without its effect."""
DISK = {"offload": "disk"}
BF16 = {"gradient_dtype": "bf16"}
plan = test_axes_together.plan

FEW = [
    Case(DEEP, plan("tensor", zero=1) | TOKENS | LATE, "fp16", accumulation=2),
    Case("hf-gpt2", plan("tensor", zero=3), rules=GPT2),
    Case(EXPERTS, plan("sequence", "expert", zero=1) | RING | DISK, "fp16", accumulation=2),
    Case(EXPERTS, plan("pipeline", "expert", zero=2) | GPIPE | DISK, accumulation=2),
    Case(EXPERTS, plan("sequence", "expert") | BF16),
    Case(DEEP, plan("sequence", zero=3, backend="fsdp2")),
]
SHARDED = [
    Case(DEEP, plan("tensor", zero=3, remat=True) | TOKENS | DISK, "bf16", accumulation=2),
    *(Case("hf-gpt2", plan("tensor", zero=zero), rules=GPT2, accumulation=2) for zero in (1, 2)),
    Case(DEEP, plan("sequence", zero=2) | RING | LATE, "bf16", accumulation=2),
    Case(DEEP, plan("sequence", zero=3, remat=True) | DISK),
    Case(EXPERTS, plan("sequence", "expert", zero=2, remat=True) | LATE, accumulation=2),
    Case(DEEP, plan("sequence", zero=2, backend="fsdp2", remat=True) | RING),
    Case(DEEP, plan("pipeline", zero=1, remat=True) | GPIPE | LATE, "bf16", accumulation=2),
    Case(DEEP, plan("pipeline", zero=3, remat=True) | GPIPE, "fp16", accumulation=2),
    *(Case(DEEP, plan("pipeline", zero=3) | where, accumulation=2) for where in (DISK, LATE)),
    Case(DEEP, plan("pipeline", zero=2, remat=True) | INTERLEAVED | DISK, accumulation=2),
    Case(DEEP, plan("pipeline", zero=1) | INTERLEAVED | LATE, accumulation=2),
    *(Case(DEEP, plan("pipeline", zero=1) | ZERO_BUBBLE | where, accumulation=4) for where in (DISK, LATE)),
]
WHOLE = [
    Case("hf-gpt2", plan("tensor"), rules=GPT2, accumulation=2),
    Case(DEEP, plan("tensor", remat=True) | TOKENS | BF16, accumulation=2),
    Case(DEEP, plan("sequence") | RING | BF16),
    Case(DEEP, plan("pipeline") | GPIPE | BF16, "bf16", accumulation=2),
    *(Case(DEEP, plan("pipeline") | how | BF16, accumulation=4) for how in ({}, INTERLEAVED, ZERO_BUBBLE)),
    *(
        Case(DEEP, plan("tensor", "pipeline") | TOKENS | how, accumulation=4)
        for how in (GPIPE, INTERLEAVED, ZERO_BUBBLE)
    ),
    *(
        Case(DEEP, plan("sequence", "pipeline") | how, accumulation=4)
        for how in (GPIPE, ZERO_BUBBLE, RING | GPIPE, RING | INTERLEAVED)
    ),
]
GROUPS = {"few": FEW, "sharded": SHARDED, "whole": WHOLE}
"""The first runs always, the others where slow tests do."""
WORLD = 4

Fields = dict[str, Any]
AXES = ("data", "tensor", "sequence", "pipeline", "expert")
OPTIONS: dict[str, tuple[Fields, Fields]] = {
    "data": ({"data": 2}, {}),
    "tensor": ({"tensor": 2}, {}),
    "tensor_sequence": ({"tensor_sequence": True}, {"tensor": 2}),
    **{f"sequence by {how}": ({"sequence": 2, "sequence_attention": how}, {}) for how in ("heads", "ring")},
    **{f"pipeline {how}": ({"pipeline": 2, "pipeline_schedule": how}, {}) for how in ("gpipe", "1f1b")},
    "pipeline interleaved": ({"pipeline": 2, **INTERLEAVED}, {}),
    "pipeline zero_bubble": ({"pipeline": 2, **ZERO_BUBBLE}, {}),
    "expert": ({"expert": 2}, {"data": 2}),
    **{f"zero = {zero}": ({"zero": zero}, {}) for zero in (1, 2, 3)},
    "fsdp2": ({"backend": "fsdp2"}, {"zero": 3, "data": 2}),
    "offload to the host": ({"offload": "host"}, {"zero": 1}),
    "offload_delay": ({"offload": "host", "offload_delay": 9}, {"zero": 1}),
    "offload to the disk": ({"offload": "disk"}, {"zero": 1, "offload_folder": "scratch"}),
    "gradients in bf16": ({"gradient_dtype": "bf16"}, {"data": 2}),
    "compressed": ({"communication": "compressed"}, {"data": 2}),
    "adasum": ({"communication": "adasum"}, {"data": 2}),
    "remat": ({"remat": True}, {}),
    "bf16": ({"precision": "bf16"}, {}),
    "fp16": ({"precision": "fp16"}, {"zero": 1}),
}
"""What a plan can be told: its fields, and the least that they need beside them."""
OTHERWISE = {"compressed", "adasum"}
"""Not the numbers of one process, so not in the battery: `test_compressed` and `test_adasum` have them."""


def battery() -> Iterator[tuple[int, Case]]:
    """Every case of the contract, with its number of ranks."""
    for world in (2, 4):
        yield from ((world, case) for case in test_equivalence.cases(world))
        yield from ((world, Case(name, fields)) for name, _, fields, *_ in test_exact.chosen(world))
        spread = [
            Case(name, fields) for name, fields, *_ in test_spread.chosen(world) if fields["expert"] > 1
        ]
        yield from ((world, case) for case in spread)
    for world, some in test_axes_together.CASES.items():
        yield from ((world, case) for case in some)
    yield from ((2, case) for case in test_offload.cases())
    yield from ((WORLD, case) for some in GROUPS.values() for case in some)


def told(world: int, case: Case) -> frozenset[str]:
    """The options that a case has."""
    fields = plan_of(case, world, "scratch").model_dump() | {"precision": case.precision}

    def has(name: str, value: Any) -> bool:
        return fields[name] > 1 if name in AXES else bool(fields[name] == value)

    return frozenset(
        option for option, (own, _) in OPTIONS.items() if all(has(name, value) for name, value in own.items())
    )


def pairs() -> Iterator[tuple[str, str]]:
    """Options that do not answer the same question differently."""
    for one, other in combinations(OPTIONS, 2):
        (mine, _), (theirs, _) = OPTIONS[one], OPTIONS[other]
        if not any(name in theirs for name in mine):
            yield one, other


def refusal(one: str, other: str) -> str | None:
    """Why a plan with both options, and the least beside them, is refused; None where it is not."""
    (mine, needed), (theirs, needed_too) = OPTIONS[one], OPTIONS[other]
    fields = needed | needed_too | mine | theirs
    if "zero" not in mine | theirs and "zero" in fields:  # the least that both need
        fields["zero"] = max(n.get("zero", 0) for n in (needed, needed_too))
    precision = fields.pop("precision", "fp32")
    try:
        made = Plan(**fields)
    except ValidationError as error:
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    if precision == "fp16":
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        alone = Plan(**made.model_dump() | dict.fromkeys(AXES, 1) | {"data": 2, "tensor_sequence": False})
        try:
            with fake_world(2):
                parallel.apply(model, alone, precision="fp16")
        except PlanError as error:
            return str(error)
    return None
