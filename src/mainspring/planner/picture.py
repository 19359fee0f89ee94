"""Draw a schedule: a row for each rank, time to the right, a box for each thing it does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from xml.sax.saxutils import escape

from mainspring.planner.ticks import Timeline

_ROW, _LEFT, _TOP = 26, 52, 30
_WIDTH = 760
_FILLS = {
    "F": ("#8fb8de", "#6a9bc9"),
    "B": ("#f0b775", "#dd9c4f"),
    "W": ("#b9d8a3", "#98c07d"),
    "U": ("#ccc", "#ccc"),
}
"""By what is done, for a rank's first chunk and for its others."""
_MEANINGS = {"F": "forward", "B": "backward", "W": "backward to weights", "U": "update"}


def svg(timelines: Sequence[tuple[str, Timeline]], *, span: float | None = None) -> str:
    """Timelines below one another in one scale, as an SVG picture.

    Boxes have the number of the micro-batch where it fits; a rank's further chunks of layers are darker. What
    is left blank is the bubble.

    Args:
        timelines: each with its title.
        span: time that the width stands for (None: that of the longest).
    """
    longest = span or max(timeline.span for _, timeline in timelines)
    scale = (_WIDTH - _LEFT - 8) / longest
    parts: list[str] = []
    top = 0
    for title, timeline in timelines:
        parts.append(f'<text x="{_LEFT}" y="{top + 19}" font-weight="600">{escape(title)}</text>')
        parts += _boxes(timeline, top + _TOP, scale)
        top += _TOP + timeline.ranks * _ROW
    seen = {e.op.kind for _, t in timelines for e in t.events if e.end > e.start}
    kinds = [kind for kind in _FILLS if kind in seen]
    for place, kind in enumerate(kinds):
        x = _LEFT + 150 * place
        parts.append(f'<rect x="{x}" y="{top + 12}" width="14" height="12" fill="{_FILLS[kind][0]}"/>')
        parts.append(f'<text x="{x + 20}" y="{top + 22}">{_MEANINGS[kind]}</text>')
    size = f'width="{_WIDTH}" height="{top + 34}"'
    style = "font-family:system-ui,sans-serif;font-size:11px;fill:#222"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 34}" {size} style="{style}">\n'
        f'<rect {size} fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _boxes(timeline: Timeline, top: int, scale: float) -> list[str]:
    """The rows of one timeline."""
    outlines: dict[str, list[str]] = defaultdict(list)
    labels: dict[int, list[str]] = defaultdict(list)
    for event in timeline.events:
        x, width = round(_LEFT + event.start * scale), round((event.end - event.start) * scale) - 1
        if width <= 0:
            continue
        y, height = top + event.rank * _ROW + 2, _ROW - 4
        fill = _FILLS[event.op.kind][event.op.stage >= timeline.ranks]
        outlines[fill].append(f"M{x} {y}h{width}v{height}h-{width}z")
        number = str(event.op.batch)
        if width > 1 + 7 * len(number):
            labels[event.rank].append(f'<tspan x="{x + width // 2}">{number}</tspan>')
    found = [f'<path fill="{fill}" d="{"".join(paths)}"/>' for fill, paths in outlines.items()]
    for rank in range(timeline.ranks):
        y = top + rank * _ROW + 17
        found.append(f'<text x="{_LEFT - 8}" y="{y}" text-anchor="end">rank {rank}</text>')
        found.append(f'<text y="{y}" text-anchor="middle">{"".join(labels[rank])}</text>')
    return found
