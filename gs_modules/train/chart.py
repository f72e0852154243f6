"""Line charts as inline SVG.

Matplotlib's SVG fixes its colours and brings its fonts as paths; these take colours and font from
the page, so that they follow the reader's light or dark, and are text to search and to hear.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from html import escape

from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 320, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 8, 24
MOST_POINTS = 300
"""A longer line is thinned to so many points: more cannot be seen."""


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: in the legend, once for all lines of this name.
        colour: number of its colour on the page, 0 to 3, or 4 for the background: one name, one
            colour in all charts.
        points: (x, y) in the order of x; a single one is drawn as a mark.
        joined: whether a line joins the points, or each is a mark.
        detail: of this line among those of its name, for who points at it.
    """

    name: str
    colour: int
    points: Sequence[tuple[float, float]]
    joined: bool = True
    detail: str = ""


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_name: str = "step",
    within: tuple[float, float] | None = None,
) -> str:
    """A figure with its title as caption, a legend where there are several lines, and the curves.

    Args:
        title: what the y axis shows, with its unit.
        lines: those without points are left out.
        x_name: what the x axis shows, from 0 on.
        within: the y axis; by default it holds what there is.

    Example:
        >>> "<svg" in line_chart("loss (nats)", [Line("train", 0, [(0, 3.0), (10, 2.0)])])
        True
    """
    drawn = [dataclasses.replace(line, points=_thinned(line.points)) for line in lines]
    drawn = [line for line in drawn if line.points]
    last_x = max((x for line in drawn for x, _ in line.points), default=1.0) or 1.0
    levels = _ticks(*(within or _range([y for line in drawn for _, y in line.points])))
    low, high = within or (levels[0], levels[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + x / last_x * across, TOP + (high - y) / (high - low) * down

    lasts = ", ".join(f"{line.detail or line.name} {line.points[-1][1]:.4g}" for line in drawn)
    said = escape(f"{title} over {x_name}s; last: {lasts}")
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">']
    for value in levels:
        if low <= value <= high:
            _, y = place(0, value)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text class="y" x="{LEFT - 6}" y="{y + 4:.1f}">{value:,.6g}</text>')
    for value in _ticks(0, last_x, integer=True):
        if value <= last_x:
            x, _ = place(value, low)
            anchor = "end" if value > 0.9 * last_x else "middle"  # keeps within the picture
            parts.append(
                f'<text text-anchor="{anchor}" x="{x:.1f}" y="{HEIGHT - 5}">{value:,.6g}</text>'
            )
    for line in drawn:
        places = [place(x, y) for x, y in line.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        if line.joined:
            parts.append(f'<path class="line c{line.colour}" d="M{path}"/>')
        alone = "" if line.joined and len(places) > 1 else " alone"
        who = escape(line.detail or line.name)
        for (x, y), point in zip(places, line.points, strict=True):
            parts.append(
                f'<circle class="point{alone} c{line.colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
                f"<title>{who}, {escape(x_name)} {point[0]:,.10g}: {point[1]:.6g}"
                "</title></circle>"
            )
    caption = f"<figcaption>{escape(title)}{_legend(drawn)}</figcaption>"
    return f"<figure>{caption}{''.join(parts)}</svg></figure>"


def _legend(lines: Sequence[Line]) -> str:
    colours = {line.name: line.colour for line in lines}
    if len(colours) < 2:
        return ""
    keys = (f'<li class="c{colour}">{escape(name)}</li>' for name, colour in colours.items())
    return f'<ul class="legend">{"".join(keys)}</ul>'


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    every = max(1, math.ceil(len(points) / MOST_POINTS))
    return points[(len(points) - 1) % every :: every]  # the last one is always kept


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = max(abs(low), 1.0) / 2 if low == high else 0.0
    return low - room, high + room


def _ticks(low: float, high: float, *, integer: bool = False) -> list[float]:
    """Round numbers; the first and the last enclose the range."""
    return [float(tick) for tick in MaxNLocator(4, integer=integer).tick_values(low, high)]
