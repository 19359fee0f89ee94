"""What a cost and a refusal say in words."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mainspring.planner.candidate import Candidate
from mainspring.planner.cost import Cost
from mainspring.planner.device import Device
from mainspring.planner.search import Rejected
from mainspring.planner.units import amount, duration

_FIGURE = re.compile(r"\d[\d.,]*( [KMGTP]?i?B)?")


def totals(cost: Cost, device: Device) -> list[str]:
    """Lines on bytes, traffic, FLOPs and seconds."""
    lines = [_sum("device", cost.device_bytes, f" of {amount(device.memory, 'B')}")]
    lines += [
        _sum(where, kinds, "")
        for where, kinds in (("host", cost.host_bytes), ("disk", cost.disk_bytes))
        if any(kinds.values())
    ]
    sent = ", ".join(f"{link} {amount(n, 'B')}" for link, n in cost.traffic.items() if n)
    seconds = ", ".join(f"{kind} {duration(s)}" for kind, s in cost.seconds.items() if s)
    lines.append(f"  sent a step: {sent or 'nothing'}")
    lines.append(f"  {amount(cost.flops)}FLOP a step ({amount(cost.flops_done)} with recomputation)")
    lines.append(f"  {duration(cost.seconds_per_step)} a step: {seconds}")
    return lines


def reasons(rejected: Iterable[Rejected]) -> list[tuple[str, int, Candidate]]:
    """Each kind of reason: in words, how often, and the candidate that it struck least (by what is over).

    Reasons that differ in figures alone are one kind.
    """
    kinds: dict[str, list[Rejected]] = {}
    for one in rejected:
        kinds.setdefault(_FIGURE.sub("#", one.reason), []).append(one)
    result = []
    for found in kinds.values():
        nearest = min(found, key=lambda r: r.numbers.get("over", 0.0))
        result.append((nearest.reason, len(found), nearest.candidate))
    return sorted(result, key=lambda row: -row[1])


def _sum(where: str, kinds: dict[str, int], has: str) -> str:
    parts = ", ".join(f"{kind} {amount(n, 'B')}" for kind, n in kinds.items() if n)
    return f"  {where}: {amount(sum(kinds.values()), 'B')}{has}: {parts}"
