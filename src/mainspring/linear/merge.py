"""Compose what workers made of blocks that began at the same w_g: w <- l_i + M_i (w - w_g), in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mainspring.linear.block import Loops, Weights
from mainspring.linear.combiners import Array, Places, Tracker
from mainspring.linear.lines import Ints, line_count

if TYPE_CHECKING:
    from mainspring.linear.settings import LinearSettings


@dataclass(frozen=True)
class Report:
    """A worker's block: where it ended (`ends` [features], which is where all began but on `lines`), by which
    scale; the product of its decays; how its end depends on its beginning."""

    lines: Ints
    ends: Array
    scale: float
    decay: float
    tracker: Tracker


def merge(
    weights: Weights, before: Array, reports: Sequence[Report], settings: LinearSettings, loops: Loops
) -> Ints:
    """Take the reports, in the order of their examples, into `weights` (which all of them began at).

    Args:
        weights: w_g, made w.
        before: a copy of `weights.values`; brought up to the new ones at the end.
        reports: one a worker.
        settings: names the combiner.
        loops: go over the features.

    Returns:
        Lines that changed.
    """
    began = weights.scale
    if settings.combiner == "mean":
        weights.scale *= float(np.mean([r.decay for r in reports]))
        for r in reports:
            loops.add(weights.values, r.lines, r.ends, before, r.scale / len(reports) / weights.scale)
    else:
        for number, r in enumerate(reports):
            changed: tuple[Places, Array] | None = None
            if number and r.tracker is not None:
                on = r.tracker.concerned(r.lines)
                here = weights.values[on].astype(np.float64) * weights.scale
                changed = on, r.tracker.apply(on, here - before[on].astype(np.float64) * began)
            weights.scale *= r.decay
            loops.add(weights.values, r.lines, r.ends, before, r.scale / weights.scale)
            if changed is not None:
                on, by = changed
                weights.values[on] += r.decay * by / weights.scale
    marks = np.zeros(line_count(len(before)), dtype=bool)
    for r in reports:
        marks[r.lines] = True
    changed_lines = np.flatnonzero(marks).astype(np.int32)
    loops.copy(before, changed_lines, weights.values)
    return changed_lines
