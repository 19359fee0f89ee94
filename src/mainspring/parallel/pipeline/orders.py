"""In which order the ranks of a pipeline go forward and backward: PyTorch's schedules, as values.

Sources: GPipe, Huang et al. 2019 (arXiv 1811.06965); 1F1B with a flush, Narayanan et al. 2021 (arXiv
2006.09503), section 3.1; interleaved, Narayanan et al. 2021 (arXiv 2104.04473), section 2.2; zero bubble
(its ZB-H1 when a rank has one chunk), Qi et al. 2023 (arXiv 2401.10241), section 3. PyTorch calls them
`ScheduleGPipe`, `Schedule1F1B`, `ScheduleInterleaved1F1B` and `ScheduleInterleavedZeroBubble`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Literal

from torch import Tensor, nn
from torch.distributed.pipelining import schedules

from mainspring.parallel.pipedream.layout import Layout
from mainspring.parallel.pipedream.schedule import Op, Semantics
from mainspring.parallel.pipedream.schedule import orders as pipedream_orders
from mainspring.parallel.pipeline.rounds import check_micro_batches
from mainspring.parallel.plan import Plan

_CLASSES: dict[str, Any] = {
    "gpipe": schedules.ScheduleGPipe,
    "1f1b": schedules.Schedule1F1B,
    "interleaved": schedules.ScheduleInterleaved1F1B,
    "zero_bubble": schedules.ScheduleInterleavedZeroBubble,
}
_PLAIN: dict[str, Semantics] = {"gpipe": "gpipe", "1f1b": "flush"}
"""Schedules of one chunk a rank, as `parallel.pipedream` calls them."""
_KINDS: dict[str, Literal["F", "B", "W"]] = {"F": "F", "B": "B", "I": "B", "W": "W"}
"""Our names of PyTorch's actions."""


def make_schedule(plan: Plan, stages: Sequence[Any], micro_batches: int, loss: Callable[..., Tensor]) -> Any:
    """PyTorch's schedule for this rank's stages; `check_micro_batches` has passed."""
    made = _CLASSES[plan.pipeline_schedule]
    given = stages[0] if plan.pipeline_schedule in _PLAIN else list(stages)
    return made(given, micro_batches, loss, scale_grads=False)


def orders(plan: Plan, micro_batches: int) -> list[list[Op]]:
    """What each rank of a pipeline does in a step of `micro_batches`, nothing being built or sent.

    Where the schedule splits the backward, "B" is the part towards the input and "W" that towards weights.

    >>> plan = Plan(pipeline=2)
    >>> [str(op) for op in orders(plan, 2)[1]]
    ['F0 of stage 1', 'B0 of stage 1', 'F1 of stage 1', 'B1 of stage 1']
    """
    if plan.pipeline_schedule in _PLAIN:
        # PyTorch's own table of 1F1B is not what it carries out: its last rank begins with micro-batch 1.
        layout = Layout((1,) * plan.pipeline)
        plain = pipedream_orders(layout, _PLAIN[plan.pipeline_schedule], micro_batches, micro_batches)
        return [[op for op in ops if op.kind != "U"] for ops in plain]
    check_micro_batches(plan, micro_batches)
    table = make_schedule(plan, _stand_ins(plan), micro_batches, _no_loss).pipeline_order
    return [
        [
            Op(_KINDS[action.computation_type.value], action.microbatch_index, action.stage_index)
            for action in table[rank]
            if action is not None and action.computation_type.value in _KINDS
        ]
        for rank in range(plan.pipeline)
    ]


def _no_loss(*_: Any) -> Tensor:
    raise AssertionError("a schedule that is only looked at computes nothing")


def _stand_ins(plan: Plan) -> list[SimpleNamespace]:
    """What a schedule reads of a rank's stages when it lays the orders of all ranks out."""
    total = plan.pipeline * plan.pipeline_chunks
    return [
        SimpleNamespace(
            stage_index=number,
            num_stages=total,
            group_size=plan.pipeline,
            group_rank=0,
            is_first=number == 0,
            is_last=number == total - 1,
            submod=nn.Module(),
        )
        for number in range(0, total, plan.pipeline)
    ]
