"""Charts as SVG: lines lie where their numbers are."""

import re

import pytest

from gs_modules.train.chart import MOST_POINTS, Line, line_chart

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]


def places(chart, pattern):
    return [tuple(map(float, found)) for found in re.findall(pattern, chart)]


def test_a_line_lies_where_its_numbers_are():
    """The labels of the axes are the oracle: between them, places follow the numbers linearly."""
    points = [(0, 20.0), (300, 12.5), (1000, 11.0)]
    chart = line_chart("loss", [Line("train", 0, points)])
    drawn = places(chart, r'cx="([\d.]+)" cy="([\d.]+)"')
    levels = places(chart, r'class="y" x="[\d.]+" y="([\d.]+)">([\d.,]+)<')
    steps = [
        (float(x), float(label.replace(",", "")))
        for x, label in re.findall(r'anchor="\w+" x="([\d.]+)" y="\d+">([\d.,]+)<', chart)
    ]
    (y0, level0), (y1, level1) = levels[0], levels[-1]
    (x0, step0), (x1, step1) = steps[0], steps[-1]
    for (x, y), (step, value) in zip(drawn, points, strict=True):
        assert step0 + (x - x0) / (x1 - x0) * (step1 - step0) == pytest.approx(step, abs=5)
        # A label is four units below its line.
        read = level0 + (y + 4 - y0) / (y1 - y0) * (level1 - level0)
        assert read == pytest.approx(value, abs=0.1)


def test_a_long_line_is_thinned_and_keeps_its_end():
    points = [(step, float(step)) for step in range(10_001)]
    chart = line_chart("loss", [Line("train", 0, points)])
    said = re.findall(r"step ([\d,]+):", chart)
    assert MOST_POINTS / 2 < len(said) <= MOST_POINTS and said[-1] == "10,000"


@pytest.mark.parametrize("points", [[], [(0, 1.0)], [(5, 0.0)], [(0, 2.0), (10, 2.0)]])
def test_a_chart_takes_what_there_is(points):
    chart = line_chart("loss", [Line("train", 0, points)])
    assert "nan" not in chart and chart.count("<circle") == len(points)
