"""What the schedule of a pipeline costs: micro-batches in flight, and the bubble.

Legend: p stages (ranks), v chunks a rank, m micro-batches of a step.

    schedule      micro-batches that rank i keeps       bubble, in parts of what a rank computes
    gpipe         m                                     (p - 1) / m
    1f1b          min(p - i, m)                         (p - 1) / m
    interleaved   (2 (p - i - 1) + (v - 1) p + 1) / v   (p - 1) / (v m)
    zero_bubble   as interleaved (v = 1: 1f1b)          (p - 1) / (3 v m)

Huang et al. 2019 (GPipe, arXiv 1811.06965); Narayanan et al. 2021 (arXiv 2104.04473, section 2.2): on rank 0
interleaved comes to p (1 + (p - 1) / (p v)) micro-batches (Korthikanti et al. 2022, arXiv 2205.05198,
section 4.2.3); Qi et al. 2023 (arXiv 2401.10241, table 2, ZB-H1), where forward and both halves of backward
take alike.
"""

from __future__ import annotations

from typing import Literal

Schedule = Literal["gpipe", "1f1b", "interleaved", "zero_bubble"]


def in_flight(schedule: Schedule, stages: int, chunks: int, micro_batches: int, rank: int) -> float:
    """Micro-batches of which a rank keeps the activations of all its layers.

    >>> in_flight("1f1b", 4, 1, 16, 0), in_flight("gpipe", 4, 1, 16, 0), in_flight("interleaved", 4, 2, 16, 0)
    (4, 16, 5.5)
    """
    if schedule == "gpipe":
        return micro_batches
    behind = stages - 1 - rank
    if chunks == 1:
        return min(behind + 1, micro_batches)
    return min((2 * behind + (chunks - 1) * stages + 1) / chunks, micro_batches)


def bubble(schedule: Schedule, chunks: int, micro_batches: int, others: float) -> float:
    """Seconds that a rank waits in a step.

    Args:
        schedule: of the pipeline.
        chunks: separate runs of layers a rank holds.
        micro_batches: of a step.
        others: seconds that all other ranks together compute in it.

    >>> bubble("1f1b", 1, 8, 3.0), bubble("interleaved", 2, 8, 3.0), bubble("zero_bubble", 1, 8, 3.0)
    (0.375, 0.1875, 0.125)
    """
    return others / (chunks * micro_batches) / (3 if schedule == "zero_bubble" else 1)
