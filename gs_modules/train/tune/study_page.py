"""The page of a study: what was tried, what was best, and which keys mattered."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gs_modules.train.chart import Line, line_chart
from gs_modules.train.config import Config, to_yaml
from gs_modules.train.page import (
    bars,
    document,
    folded,
    grid,
    key_figures,
    section,
    table,
    text,
)

Trial = Mapping[str, Any]

CURVE_POINTS = 60
"""Points of a curve of the temperature."""


def study_page(study: Mapping[str, Any], best: Mapping[int, Config], study_yaml: str) -> str:
    """The page of a study as HTML.

    Args:
        study: what ``study.json`` holds: ``study``, its name; ``trials``, each with ``number``,
            ``state``, ``bound`` (None unless complete), ``step``, ``seconds``, ``reason``,
            ``params`` and ``bounds`` by step; ``importance`` of the searched keys.
        best: configs of the best trials by number, the best first.
        study_yaml: the resolved config of the study.
    """
    trials: Sequence[Trial] = study["trials"]
    by_number = {trial["number"]: trial for trial in trials}
    ranked = [by_number[number] for number in best]
    states = Counter(trial["state"] for trial in trials)
    counts = ", ".join(f"{count} {state}" for state, count in states.items())
    importance: Mapping[str, float] = study["importance"]
    return document(
        study["study"],
        f"Study of {len(trials)} trials: {counts or 'none yet'}.",
        [
            section("At a glance", key_figures(_key_figures(trials, ranked))),
            section(
                "Search",
                grid([_history(trials), _learning(ranked), _temperatures(best)]),
                note="Validation negative ELBO in nats per image. A trial counts by its best "
                "evaluation; pruned trials end before they can be compared.",
            ),
            *([_importance(importance)] if importance else []),
            section(
                "Trials",
                _table(ranked),
                folded(f"all {len(trials)} trials", _table(trials)),
                note="The best ones, and what was searched.",
            ),
            *(
                section(
                    "Best config",
                    text(to_yaml(config)),
                    note=f"Of trial {number}; best.yaml holds it for gs-modules train.",
                )
                for number, config in itertools.islice(best.items(), 1)
            ),
            section("Study", text(study_yaml), note="The resolved config of the search."),
        ],
    )


def _key_figures(trials: Sequence[Trial], ranked: Sequence[Trial]) -> dict[str, str]:
    seconds = sum(trial["seconds"] or 0 for trial in trials)
    figures = {
        "trials": f"{len(trials)}",
        "complete": f"{sum(trial['state'] == 'complete' for trial in trials)}",
        "minutes of training": f"{seconds / 60:,.0f}",
    }
    if not ranked:
        return figures
    return {
        "best bound, nats": f"{ranked[0]['bound']:.3f}",
        "best trial": f"{ranked[0]['number']}",
        **figures,
    }


def _history(trials: Sequence[Trial]) -> str:
    points = [(t["number"], t["bound"]) for t in trials if t["bound"] is not None]
    least = itertools.accumulate((bound for _, bound in points), min)
    so_far = [(number, bound) for (number, _), bound in zip(points, least, strict=True)]
    lines = [Line("a trial", 4, points, joined=False), Line("best so far", 0, so_far)]
    return line_chart("bound of each trial", lines, x_name="trial")


def _learning(ranked: Sequence[Trial]) -> str:
    curves = {
        trial["number"]: sorted((int(step), bound) for step, bound in trial["bounds"].items())
        for trial in ranked
    }
    return line_chart("bound over the steps", _first_before_others(curves))


def _temperatures(best: Mapping[int, Config]) -> str:
    curves = {}
    for number, config in best.items():
        curves[number] = list(zip(*temperature_along(config, CURVE_POINTS), strict=True))
    return line_chart("temperature", _first_before_others(curves))


def temperature_along(config: Config, points: int) -> tuple[list[int], list[float]]:
    """So many steps from the first of a run to the last, and the temperature at each."""
    steps = jnp.linspace(0, config.training.steps, points).astype(jnp.int32)
    return steps.tolist(), jax.vmap(config.temperature.build())(steps).tolist()


def _first_before_others(curves: Mapping[int, Sequence[tuple[float, float]]]) -> list[Line]:
    """Curves by trial, the best first; it is drawn last, over the others."""
    lines = [
        Line("best", 0, points, detail=f"trial {number}, the best")
        if place == 0
        else Line(f"the next {len(curves) - 1}", 4, points, detail=f"trial {number}")
        for place, (number, points) in enumerate(curves.items())
    ]
    return lines[::-1]


def _importance(importance: Mapping[str, float]) -> str:
    return section(
        "What mattered",
        bars(importance),
        note="The share of each key in how the bounds differ, as Optuna estimates it.",
    )


def _table(trials: Sequence[Trial]) -> str:
    keys = list(dict.fromkeys(key for trial in trials for key in trial["params"]))
    rows = [
        (
            f"{trial['number']}",
            trial["state"] if not trial["reason"] else f"{trial['state']}: {trial['reason']}",
            "" if trial["bound"] is None else f"{trial['bound']:.3f}",
            *(_shown(trial["params"].get(key)) for key in keys),
        )
        for trial in trials
    ]
    return table(("trial", "state", "bound", *keys), rows)


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else f"{value}"
