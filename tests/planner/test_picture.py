"""Pictures of schedules: a box for each thing done, where and as long as the timeline says."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from mainspring.parallel import Plan
from mainspring.parallel.pipeline.orders import orders
from mainspring.planner.picture import svg
from mainspring.planner.ticks import simulate

SVG = "{http://www.w3.org/2000/svg}"


def test_boxes_are_the_timeline() -> None:
    plan = Plan(pipeline=2, pipeline_schedule="zero_bubble")
    timeline = simulate(orders(plan, 4), lambda op: 1.0)
    root = ElementTree.fromstring(svg([("a < b", timeline)]))
    titles = [e.text for e in root.iter(f"{SVG}text") if e.get("font-weight")]
    assert titles == ["a < b"]
    paths = {e.get("fill"): e.get("d") or "" for e in root.iter(f"{SVG}path")}
    boxes = [tuple(map(int, b)) for d in paths.values() for b in re.findall(r"M(\d+) (\d+)h(\d+)v(\d+)", d)]
    assert len(boxes) == len(timeline.events) == 24 and len(paths) == 3
    rows = sorted({y for _, y, _, _ in boxes})
    assert len(rows) == 2
    ticks = sorted(x for x, y, _, _ in boxes if y == rows[1])
    width = (ticks[-1] - ticks[0]) / (timeline.span - 2)  # the second rank begins a tick later
    assert [(x - ticks[0]) / width for x in ticks] == pytest.approx(
        [e.start - 1 for e in timeline.events if e.rank == 1], abs=0.05
    )
    labels = [e.text for e in root.iter(f"{SVG}tspan")]
    assert sorted(labels) == sorted(str(e.op.batch) for e in timeline.events)
