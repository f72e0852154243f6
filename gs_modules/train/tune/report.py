"""What a study leaves: the best config, a table, figures, and its numbers as JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from gs_modules.train.config import Config, to_yaml
from gs_modules.train.console import say
from gs_modules.train.figures import save
from gs_modules.train.folder import write_json, write_whole
from gs_modules.train.tune.space import values_in_words
from gs_modules.train.tune.study import Study
from gs_modules.train.tune.study_page import study_page, temperature_along

SHOWN = 10
"""Trials in the table on screen and in the figure of temperatures."""


def write_results(study: Study, folder: Path, console: Console) -> None:
    """Writes everything into the study's folder, `best.yaml` last, and says what was best."""
    trials = study.finished()
    best = ranked(trials)[:SHOWN]
    configs = {trial.number: study.tuning.config_of(trial.params) for trial in best}
    importance = importances(study.optuna, trials)
    save(
        folder / "figures",
        {
            "history.png": history(trials),
            "importance.png": importance_bars(importance),
            "temperatures.png": temperatures(configs),
        },
    )
    keys = list(study.tuning.search)
    write_whole(folder / "trials.csv", as_csv(trials, keys).encode())
    document = {
        "study": study.tuning.study.name,
        "trials": [as_json(trial) for trial in trials],
        "best": best[0].number if best else None,
        "importance": importance,
    }
    write_json(folder / "study.json", document)
    if not best:
        say(console, f"no trial was completed; see {folder / 'trials.csv'}")
        return
    bound, step = best[0].value, best[0].user_attrs["step"]
    header = (
        f"# Best of {len(trials)} trials of the study {study.tuning.study.name}: trial "
        f"{best[0].number}, validation negative ELBO {bound:.3f} nats at step {step}\n"
    )
    page = study_page(document, configs, study.tuning.to_yaml())
    write_whole(folder / "report.html", page.encode())
    found = to_yaml(configs[best[0].number])
    write_whole(folder / "best.yaml", (header + found).encode())
    console.print(table(best))
    say(console, f"best: trial {best[0].number}, {bound:.3f} nats; {folder / 'best.yaml'}")
    say(console, f"table, figures and numbers: {folder}")


def ranked(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Complete trials, the best first."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: (_value(trial), trial.number))


def _value(trial: FrozenTrial) -> float:
    return math.inf if trial.value is None else trial.value


def importances(study: optuna.Study, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """The share of each key in how the bounds differ, largest first; empty with too few trials."""
    if len(ranked(trials)) < SHOWN:
        return {}
    return optuna.importance.get_param_importances(study)


def as_json(trial: FrozenTrial) -> dict[str, Any]:
    """A trial for a page."""
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "reason": trial.user_attrs.get("reason"),
        "bound": trial.value if trial.state == TrialState.COMPLETE else None,
        "step": trial.user_attrs.get("step"),
        "seconds": None if trial.duration is None else round(trial.duration.total_seconds(), 1),
        "params": trial.params,
        "bounds": {str(step): value for step, value in trial.intermediate_values.items()},
    }


def as_csv(trials: Sequence[FrozenTrial], keys: Sequence[str]) -> str:
    """A line for each trial, a column for each searched key."""
    text = io.StringIO()
    names = ["number", "state", "bound", "step", "seconds", "reason", *keys]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for trial in trials:
        writer.writerow({**as_json(trial), **trial.params})
    return text.getvalue()


def table(best: Sequence[FrozenTrial]) -> Table:
    """The best trials for a screen."""
    found = Table("trial", "nats", "values", box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for trial in best:
        found.add_row(f"{trial.number}", f"{trial.value:.3f}", values_in_words(trial.params))
    return found


def history(trials: Sequence[FrozenTrial]) -> Figure:
    """The bound of each complete trial, and the best so far."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    numbers, values = [trial.number for trial in complete], [_value(trial) for trial in complete]
    axes.plot(numbers, values, "o", label="complete")
    axes.step(numbers, np.minimum.accumulate(values), where="post", label="best so far")
    others = [trial for trial in trials if trial.state != TrialState.COMPLETE]
    # Their last bounds are of other steps: only that they were is shown.
    axes.plot(
        [trial.number for trial in others],
        np.full(len(others), 0.02),
        "|",
        color="gray",
        transform=axes.get_xaxis_transform(),
        label="pruned or failed",
    )
    axes.set(xlabel="trial", ylabel="best validation negative ELBO\n(nats per image)")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def importance_bars(importance: Mapping[str, float]) -> Figure:
    """How much each key matters."""
    figure = Figure(figsize=(8, 1.5 + 0.35 * max(1, len(importance))), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(importance), list(importance.values()))
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.invert_yaxis()
    axes.set(xlabel="importance (PED-ANOVA; shares of 1)", xmargin=0.12)
    if not importance:
        axes.set_title(f"fewer than {SHOWN} complete trials")
    return figure


def temperatures(configs: Mapping[int, Config]) -> Figure:
    """The temperature along the run of each config, by trial, the best first."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for place, (number, config) in enumerate(configs.items()):
        axes.plot(
            *temperature_along(config, 400),
            color=matplotlib.colormaps["viridis"](place / SHOWN),
            linewidth=2.5 if place == 0 else 1,
            label=f"trial {number}: {config.temperature.kind}",
        )
    axes.set(xlabel="optimizer step", ylabel="temperature", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    if configs:
        figure.legend(loc="outside right upper", fontsize="small")
    axes.grid(alpha=0.3, which="both")
    return figure
