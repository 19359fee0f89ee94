"""Curves as SVG that stands inside a page: drawn by matplotlib, coloured and lettered by the page's style.

Lines and letters are drawn in marker colours that no chart uses, and these are then replaced by the page's
CSS variables, so that one picture suits light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mainspring.errors import require

Colour = Literal["first", "second", "faint"]

_MARKERS = {"first": "#010203", "second": "#020304", "faint": "#030405", "ink": "#040506", "grid": "#050607"}


@dataclass(frozen=True)
class Line:
    """One series of a chart."""

    x: Sequence[float]
    y: Sequence[float]
    colour: Colour = "first"
    label: str | None = None
    """Named in the legend; None: not named."""
    marked: bool = False
    """Dots at the points."""


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    unit: str = "",
    from_zero: bool = False,
    log: bool = False,
    width: float = 5.2,
    height: float = 2.7,
) -> str:
    """Draw series over steps; returns an `<svg>` element.

    Args:
        title: what the values are; the chart's accessible name.
        lines: series, drawn in order.
        unit: of the values, after the title.
        from_zero: let the values' axis begin at 0.
        log: a logarithmic axis of values.
        width: inches, before the page scales the picture.
        height: inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require("matplotlib", "plot")
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9, "axes.linewidth": 0.8}
    ):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for line in lines:
            axes.plot(
                line.x,
                line.y,
                color=_MARKERS[line.colour],
                label=line.label,
                linewidth=0.8 if line.colour == "faint" else 1.8,
                marker="o" if line.marked else None,
                markersize=4,
            )
        heading = f"{title} ({unit})" if unit else title
        axes.set_title(heading, loc="left", fontsize=10, fontweight="bold", color=_MARKERS["ink"])
        axes.set_xlabel("step", color=_MARKERS["ink"])
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_MARKERS["grid"])
        axes.tick_params(colors=_MARKERS["ink"], color=_MARKERS["grid"])
        axes.grid(axis="y", color=_MARKERS["grid"], linewidth=0.6)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if log:
            axes.set_yscale("log")
        else:
            axes.yaxis.set_major_locator(MaxNLocator(5))
            top = max((abs(y) for line in lines for y in line.y), default=1.0)
            if top >= 1000:
                axes.yaxis.set_major_formatter(EngFormatter(sep=" "))
            elif top < 0.01:
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            if from_zero:
                axes.set_ylim(bottom=0)
        if any(line.label for line in lines):
            axes.legend(frameon=False, labelcolor=_MARKERS["ink"], fontsize=8.5)
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_page(drawn.getvalue(), heading)


def smooth(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and those before it, up to `window` of them.

    >>> smooth([1, 3, 5], 2)
    [1.0, 2.0, 4.0]
    """
    total, means = 0.0, []
    for i, value in enumerate(values):
        total += value - (values[i - window] if i >= window else 0.0)
        means.append(total / min(i + 1, window))
    return means


def _for_page(svg: str, name: str) -> str:
    """The bare element, scaled by the page, its marker colours replaced by the page's variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]+"', svg)
    assert box is not None, "matplotlib writes a viewBox"
    svg = re.sub(r"<svg[^>]*>", f'<svg role="img" aria-label="{name}" {box[0]}>', svg, count=1)
    # Names inside a picture must differ from those in the page's other pictures.
    prefix = re.sub(r"\W+", "-", name)
    svg = re.sub(r'(id="|href="#|url\(#)', lambda m: f"{m[1]}{prefix}-", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--face)", svg)
    for role, marker in _MARKERS.items():
        svg = svg.replace(marker, f"var(--{role})")
    return svg
