"""A comparison of gradient estimators as a table, a figure, numbers, and the answer in words."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from gs_modules.train.compare.measurements import Comparison, Measurement, Refusal

MARKERS = "osD^vP*X"


def as_json(found: Comparison) -> dict[str, Any]:
    """Plain values, all finite; ``bias``, ``variance`` and ``error`` as in the table."""
    norm = found.truth.norm
    return {
        "truth": {
            "method": found.truth.method,
            "count": found.truth.count,
            "norm": norm,
            "relative_standard_error": found.truth.standard_error / norm,
        },
        "samples": found.samples,
        "measurements": [
            {**dataclasses.asdict(one), "error": one.error()} for one in found.measurements
        ],
        "refusals": [dataclasses.asdict(one) for one in found.refusals],
    }


def truth_in_words(found: Comparison) -> str:
    """How the true gradient was found, and how well it is known."""
    truth = found.truth
    if truth.method == "enumeration":
        how = f"exact, by enumeration of {truth.count:,} outcomes"
    else:
        how = (
            f"leave-one-out REINFORCE with {truth.count:,} samples, "
            f"standard error {100 * truth.standard_error / truth.norm:.2g} % of that"
        )
    return f"true gradient: norm {truth.norm:.3g} nats; {how}"


def table(found: Comparison) -> Table:
    """A row for each estimator and temperature, those that are not available included."""
    shown = Table(
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption=(
            f"{found.samples:,} gradients a row. Bias (± standard error) relative to the norm of "
            "the true gradient; variance (trace) and error = bias² + variance relative to its "
            "square. Cosines with the true gradient: of the mean gradient, and on average of one. "
            "Time of one call for all images."
        ),
        caption_justify="left",
    )
    shown.add_column("estimator", no_wrap=True)
    names = ("temp.", "bias", "variance", "error", "cosine", "of one", "µs")
    for name in names:
        shown.add_column(name, justify="right", no_wrap=True)
    rows = {(one.estimator, one.temperature): one for one in (*found.measurements, *found.refusals)}
    for number, name in enumerate(_names(found)):
        if number:
            shown.add_row()
        for temperature in sorted(at for estimator, at in rows if estimator == name):
            shown.add_row(name, f"{temperature:g}", *_cells(rows[name, temperature]))
    return shown


def _cells(one: Measurement | Refusal) -> Iterator[str]:
    if isinstance(one, Refusal):
        yield from ["n/a"] * 6
        return
    yield _bias(one)
    yield from (f"{value:.3g}" for value in (one.variance, one.error()))
    yield from (f"{value:.3f}" for value in (one.cosine, one.sample_cosine))
    yield f"{one.seconds * 1e6:.0f}"


def verdict(found: Comparison, batch_size: int) -> list[str]:
    """The answer in words: what is not available, the smallest errors and the smallest bias."""
    refused: dict[str, list[Refusal]] = {}
    for refusal in found.refusals:
        refused.setdefault(refusal.estimator, []).append(refusal)
    lines = []
    for name, of_name in refused.items():
        where = ", ".join(f"{one.temperature:g}" for one in of_name)
        # The reasons differ in little but the temperature; the numbers on file have them all.
        lines.append(f"n/a: {name} at temperature {where}: {of_name[0].reason}")
    one, many = found.least_error(), found.least_error(batch_size)
    lines.append(
        f"smallest error of one gradient: {_where(one)} ({one.error():.3g}); of the mean of "
        f"{batch_size} (training.batch_size): {_where(many)} ({many.error(batch_size):.3g})"
    )
    least = found.least_bias()
    low, high = least.bias_within()
    alike = [one for one in found.measurements if one is not least and one.bias_within()[0] <= high]
    among = ", not told from 0" if low == 0 else ""
    alike = [_where(one) for one in sorted(alike, key=lambda one: one.error())]
    more = f" and {len(alike) - 3} more" if len(alike) > 3 else ""
    others = f"; not told from it: {', '.join(alike[:3])}{more}" if alike else ""
    lines.append(f"smallest bias: {_where(least)} ({_bias(least)}{among}){others}")
    return lines


def _where(one: Measurement) -> str:
    return f"{one.estimator} at temperature {one.temperature:g}"


def _bias(one: Measurement) -> str:
    digits = 3 if one.bias_standard_error < 0.01 else 2
    return f"{one.bias:.{digits}f} ± {one.bias_standard_error:.{digits}f}"


def draw(found: Comparison, title: str) -> Figure:
    """Bias, variance, error and cosines over the temperature, and the time of a call."""
    figure = Figure(figsize=(13, 8), layout="constrained")
    (bias, variance, error), (cosine, sample_cosine, seconds) = figure.subplots(2, 3)
    names = _names(found)
    for number, name in enumerate(names):
        rows = sorted(
            (one for one in found.measurements if one.estimator == name),
            key=lambda one: one.temperature,
        )
        style: dict[str, Any] = {
            "color": f"C{number % 10}",
            "marker": MARKERS[number % len(MARKERS)],
        }
        _draw_bias(bias, name, rows, style)
        for axes, values in (
            (variance, [one.variance or math.nan for one in rows]),  # 0 has no place on a log scale
            (error, [one.error() for one in rows]),
            (cosine, [one.cosine for one in rows]),
            (sample_cosine, [one.sample_cosine for one in rows]),
        ):
            axes.plot([one.temperature for one in rows], values, markersize=5, **style)
        if rows:
            micro = statistics.median(one.seconds for one in rows) * 1e6
            bar = seconds.barh(number, micro, height=0.4, color=style["color"])
            seconds.bar_label(bar, fmt="%.0f", padding=3)
            seconds.text(0, number - 0.25, name, verticalalignment="bottom")
    constant = dict.fromkeys(one.estimator for one in found.measurements if not one.variance)
    without = f"\n(0: {', '.join(constant)})" if constant else ""
    for axes, heading, unit in (
        (bias, "bias of the mean gradient\n(open: not told from 0, two s.e. above)", "norm"),
        (variance, f"variance of one gradient{without}", "norm²"),
        (error, "error of one gradient: bias² + variance", "norm²"),
    ):
        axes.set(title=heading, yscale="log", ylabel=f"relative to the true {unit}")
    cosine.set(title="mean gradient and true gradient", ylabel="cosine")
    sample_cosine.set(title="one gradient and true gradient", ylabel="mean cosine")
    for axes in (bias, variance, error, cosine, sample_cosine):
        _temperature_axis(axes, sorted({one.temperature for one in found.measurements}))
    seconds.set(title="time of a gradient of all images", xlabel="µs", xmargin=0.15)
    seconds.set_yticks([])
    seconds.set_ylim(len(names) - 0.5, -0.9)
    handles, labels = bias.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(names), 4))
    figure.suptitle(f"{title}\n{truth_in_words(found)}", fontsize=11)
    return figure


def _draw_bias(axes: Axes, name: str, rows: Sequence[Measurement], style: dict[str, Any]) -> None:
    """With a bar of one standard error; where the bias may be 0, what it is smaller than."""
    told = [one.bias_within()[0] > 0 for one in rows]
    heights = [
        one.bias if is_told else one.bias_within()[1]
        for one, is_told in zip(rows, told, strict=True)
    ]
    temperatures = [one.temperature for one in rows]
    axes.plot(temperatures, heights, markersize=5, label=name, **style)
    for one, height, is_told in zip(rows, heights, told, strict=True):
        if is_told:
            low, high = one.bias_within(1)
            axes.vlines(one.temperature, low, high, color=style["color"])
        else:
            axes.plot(one.temperature, height, markersize=5, markerfacecolor="white", **style)


def _temperature_axis(axes: Axes, temperatures: Sequence[float]) -> None:
    axes.set(xscale="log", xlabel="temperature")
    axes.set_xticks(temperatures, [f"{value:g}" for value in temperatures])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)


def _names(found: Comparison) -> list[str]:
    """Of the estimators, in the order in which they were measured, refused ones last."""
    return list(dict.fromkeys(one.estimator for one in (*found.measurements, *found.refusals)))
