"""Compose what workers made of blocks that began at the same w_g: w <- l_i + M_i (w - w_g), in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mainspring.linear.block import Weights
from mainspring.linear.combiners import Array, Ints, Tracker
from mainspring.linear.settings import LinearSettings


@dataclass(frozen=True)
class Report:
    """A worker's block: l = decay * w_g + gained, `gained` being 0 but on the features touched."""

    touched: Ints
    gained: Array
    decay: float
    tracker: Tracker


def gained(before: Array, after: Weights, touched: Ints) -> Array:
    """What a pass that began at values `before` added to its decayed weights: [touched] float64."""
    return (after.values[touched].astype(np.float64) - before[touched]) * after.scale


def merge(weights: Weights, before: Array, reports: Sequence[Report], settings: LinearSettings) -> None:
    """Take the reports, in the order of their examples, into `weights` (which all of them began at).

    Args:
        weights: w_g, made w.
        before: a copy of `weights.values`; brought up to the new ones at the end.
        reports: one a worker.
        settings: names the combiner.
    """
    began = weights.scale
    if settings.combiner == "mean":
        decay = float(np.mean([r.decay for r in reports]))
        weights.scale *= decay
        for r in reports:
            weights.values[r.touched] += r.gained / len(reports) / weights.scale
    else:
        for number, r in enumerate(reports):
            changed: tuple[Ints, Array] | None = None
            if number and r.tracker is not None:
                here = weights.values[r.touched].astype(np.float64) * weights.scale
                changed = r.tracker.apply(r.touched, here - before[r.touched].astype(np.float64) * began)
            weights.scale *= r.decay
            weights.values[r.touched] += r.gained / weights.scale
            if changed is not None:
                features, by = changed
                weights.values[features] += r.decay * by / weights.scale
    for r in reports:
        before[r.touched] = weights.values[r.touched]
