"""Studies without processes: how trials are handed out and kept, and what is found in the end."""

import csv
import io
import json
import os
import time

import numpy as np
import pytest
from optuna.trial import TrialState
from rich.console import Console
from sqlalchemy.exc import OperationalError, PendingRollbackError
from studies import given, results_of, small_tuning, trials_of

from gs_modules.train import cli
from gs_modules.train.config_file import ConfigError
from gs_modules.train.tune.report import (
    as_csv,
    history,
    importance_bars,
    importances,
    ranked,
    write_results,
)
from gs_modules.train.tune.space import suggest, values_of_base
from gs_modules.train.tune.storage import GRACE, RETRIES, StorageError, naming, open_database
from gs_modules.train.tune.study import open_study

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]


def test_trials_are_a_function_of_the_seed_and_of_those_before(tmp_path):
    def params(folder, opened):
        """Of six trials, the study opened anew after each so many."""
        (tmp_path / folder).mkdir()
        tuning = small_tuning(tmp_path, study__trials=6, study__seed=opened[0])
        for count in opened[1:]:
            with open_study(tuning, tmp_path / folder) as study:
                for _ in range(count):
                    trial = study.ask()
                    values = suggest(trial, tuning.search, tuning.base)
                    study.complete(trial, values["optimizer.learning_rate"], 60)
        return [trial.params for trial in trials_of(tmp_path / folder)]

    unbroken = params("unbroken", (0, 6))
    assert params("broken", (0, 2, 1, 3)) == unbroken
    assert params("other", (1, 6))[1:] != unbroken[1:]
    assert len({json.dumps(one) for one in unbroken}) == 6


def test_no_two_trials_are_drawn_alike_where_the_base_is_outside_of_the_space(tmp_path):
    tuning = given(
        tmp_path / "s.yaml",
        "study: {name: small, trials: 3, sampler: random}\n"
        "search: {optimizer.learning_rate: {low: 1e-5, high: 1e-4}}\n",
    )
    with open_study(tuning, tmp_path) as study:
        drawn = {suggest(study.ask(), tuning.search, tuning.base).popitem()[1] for _ in range(3)}
    assert len(drawn) == 3


def test_a_study_ends_with_its_trials_whatever_became_of_them(tmp_path):
    tuning = small_tuning(tmp_path)
    with open_study(tuning, tmp_path) as study:
        for number in range(4):
            trial = study.ask()
            assert trial is not None and trial.number == number
            suggest(trial, tuning.search, tuning.base)
            if number == 0:
                study.complete(trial, 20.0, 60)
            elif number == 1:
                study.prune(trial, "impossible")
            else:
                study.fail(trial, "a reason")
        assert study.ask() is None and study.is_finished
    states = [trial.state for trial in trials_of(tmp_path)]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL]


def test_a_lost_database_is_named_by_what_it_said_first():
    missed = KeyError(())  # a cache is asked before the database
    lost = OperationalError("SELECT 1", {}, Exception("the server closed"))
    spoilt = PendingRollbackError("the session is spoilt")
    lost.__context__, spoilt.__context__ = missed, lost
    said = r"^postgresql://host/name: the server closed$"
    with pytest.raises(StorageError, match=said), naming("postgresql://host/name"):
        raise spoilt


def test_no_more_trials_run_at_once_than_are_wanted(tmp_path):
    with open_study(small_tuning(tmp_path), tmp_path) as study:
        assert [study.ask().number for _ in range(4)] == [0, 1, 2, 3]
        assert study.ask() is None and not study.is_finished


def test_a_trial_left_running_is_failed_and_its_values_are_run_again_but_not_for_ever(tmp_path):
    tuning = small_tuning(tmp_path)
    wanted = None
    for opened in range(RETRIES + 1):
        with open_study(tuning, tmp_path) as study:
            trial = study.ask()
            assert trial.number == opened
            values = suggest(trial, tuning.search, tuning.base)
            wanted = wanted or values
            assert values == wanted
    with open_study(tuning, tmp_path) as study:
        assert suggest(study.ask(), tuning.search, tuning.base) != wanted
        assert study.finished() == []
    states = [trial.state for trial in trials_of(tmp_path)]
    assert states == [TrialState.FAIL] * (RETRIES + 1) + [TrialState.RUNNING]


def test_a_journal_whose_last_line_was_cut_and_whose_lock_was_left_goes_on(tmp_path):
    tuning = small_tuning(tmp_path)
    journal = tmp_path / "journal.log"
    with open_study(tuning, tmp_path) as study:
        study.complete(study.ask(), 20.0, 60)
        whole = journal.read_bytes()
        study.complete(study.ask(), 21.0, 60)
    journal.write_bytes(whole + journal.read_bytes()[len(whole) :][:30])
    os.symlink(journal, f"{journal}.lock")
    began = time.monotonic()
    with open_study(tuning, tmp_path) as study:
        assert [trial.value for trial in study.finished()] == [20.0]
        study.complete(study.ask(), 22.0, 60)
    assert time.monotonic() - began < 20  # Optuna waits for 30 seconds
    with open_study(tuning, tmp_path) as study:
        assert [trial.value for trial in study.finished()] == [20.0, 22.0]


def test_a_damaged_journal_is_named(tmp_path):
    tuning = small_tuning(tmp_path)
    with open_study(tuning, tmp_path) as study:
        study.complete(study.ask(), 20.0, 60)
    journal = tmp_path / "journal.log"
    first, *rest = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([first.replace(b"{", b"[", 1), *rest]))
    reason = f"{journal}: damaged: .*--study-dir"
    with pytest.raises(StorageError, match=reason), open_study(tuning, tmp_path):
        pass


@pytest.mark.parametrize("size", [None, 0, 50], ids=["removed", "emptied", "cut"])
def test_a_known_study_whose_trials_are_gone_is_not_begun_again(size, tmp_path):
    tuning = small_tuning(tmp_path)
    with open_study(tuning, tmp_path) as study:
        study.complete(study.ask(), 20.0, 60)
    journal = tmp_path / "journal.log"
    journal.unlink() if size is None else os.truncate(journal, size)
    lost = pytest.raises(ConfigError, match="are gone; restore them")
    with lost, open_study(tuning, tmp_path, known=True):
        pass


def test_the_values_of_the_base_come_first_whatever_was_killed(tmp_path):
    tuning = small_tuning(tmp_path)
    with open_study(tuning, tmp_path):
        pass
    journal = tmp_path / "journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    for count in range(1, len(lines)):
        journal.write_bytes(b"".join(lines[:count]))
        with open_study(tuning, tmp_path) as study:
            assert study.ask() is not None
            [first] = study.optuna.get_trials()
        base = values_of_base(tuning.search, tuning.base)
        assert first.system_attrs["fixed_params"] == base


def test_a_database_holds_one_config_for_each_name(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    with open_study(small_tuning(tmp_path, study__storage=url), tmp_path) as study:
        assert study.ask() is not None
    other = small_tuning(tmp_path, study__storage=url, training__steps=80)
    with pytest.raises(ConfigError) as refused, open_study(other, tmp_path):
        pass
    assert "--study.name" in refused.value.lines[0]
    assert refused.value.lines[1:] == [f"{url}: training.steps: 60 -> 80"]
    more = small_tuning(tmp_path, study__storage=url, study__trials=9, study__workers=1)
    with open_study(more, tmp_path) as study:
        assert study.ask().number == 1  # the other one may be running on another machine


def test_the_trials_of_a_machine_that_is_gone_are_run_again_by_another(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    tuning = small_tuning(tmp_path, study__storage=url)
    with open_study(tuning, tmp_path) as study:
        lost = suggest(study.ask(), tuning.search, tuning.base)
    with open_study(tuning, tmp_path) as study:
        alive = study.ask()
        suggest(alive, tuning.search, tuning.base)
        database = open_database(url)
        database.engine.connect().close()
        with database.engine.begin() as connection:
            connection.exec_driver_sql(
                "UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, "
                f"'-{GRACE + 1} seconds')"
            )
        database.engine.dispose()
        study.beat([alive])
        trials = study.optuna.trials
        assert [trial.state for trial in trials] == [
            TrialState.FAIL,
            TrialState.RUNNING,
            TrialState.WAITING,
        ]
        again = study.ask()
        assert (again.number, suggest(again, tuning.search, tuning.base)) == (2, lost)


def test_a_machine_that_was_thought_dead_leaves_its_trial_to_the_other(tmp_path):
    tuning = small_tuning(tmp_path)
    with open_study(tuning, tmp_path) as study:
        taken = [study.ask() for _ in range(3)]
        for trial in taken:
            suggest(trial, tuning.search, tuning.base)
            study.lose(trial.number)
        assert not study.goes_on(taken[0], 20.0, 20)
        study.complete(taken[0], 20.0, 60)
        study.prune(taken[1], "at step 20, by study.pruner")
        study.lose(taken[2].number)
    states = [trial.state for trial in trials_of(tmp_path)]
    assert states == [TrialState.FAIL] * 3 + [TrialState.WAITING] * 3


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("nonsense", "Could not parse SQLAlchemy URL from given URL string"),
        ("foo://x", "Can't load plugin: sqlalchemy.dialects:foo"),
        ("mysql://u@h/x", "No module named 'MySQLdb'"),
        (
            "sqlite:////no/such/folder/s.db",
            "(sqlite3.OperationalError) unable to open database file",
        ),
    ],
)
def test_a_database_that_cannot_be_used_is_a_wrong_config(url, reason, file, capsys):
    assert cli.main(["tune", str(file), "--study-dir", "s", "--study.storage", url]) == 2
    line = f"study.storage: {url} cannot be used: {reason}\n"
    assert capsys.readouterr().err == line


def test_results_of_a_study_whose_bounds_are_known(tmp_path):
    tuning = small_tuning(tmp_path, study__trials=14, study__pruner="none")
    with open_study(tuning, tmp_path) as study:
        for number in range(13):
            trial = study.ask()
            rate = suggest(trial, tuning.search, tuning.base)["optimizer.learning_rate"]
            study.complete(trial, 20 + abs(np.log(rate / 0.01)), number)
        study.prune(study.ask(), "a, reason")
        trials = study.finished()
        best = ranked(trials)
        assert [trial.value for trial in best] == sorted(trial.value for trial in trials[:-1])
        importance = importances(study.optuna, trials)
        # The bound is a function of the learning rate alone.
        assert next(iter(importance)) == "optimizer.learning_rate"
        assert sum(importance.values()) == pytest.approx(1)
        assert importances(study.optuna, trials[:5]) == {}
    rows = list(csv.DictReader(as_csv(trials, list(tuning.search)).splitlines()))
    assert [float(row["bound"]) for row in rows[:-1]] == [trial.value for trial in trials[:-1]]
    assert (rows[-1]["state"], rows[-1]["reason"], rows[-1]["bound"]) == ("pruned", "a, reason", "")
    (points, line, _) = history(trials).axes[0].lines
    assert list(points.get_ydata()) == [trial.value for trial in trials[:-1]]
    assert list(line.get_ydata())[-1] == best[0].value
    assert len(importance_bars(importance).axes[0].patches) == len(importance)


def test_a_study_in_which_no_trial_was_completed_has_results_but_no_best(tmp_path):
    console = Console(file=io.StringIO())
    with open_study(small_tuning(tmp_path, study__trials=1), tmp_path) as study:
        study.prune(study.ask(), "a reason")
        write_results(study, tmp_path, console)
    assert results_of(tmp_path)["best"] is None
    assert not (tmp_path / "best.yaml").exists()
    assert console.file.getvalue().startswith("no trial was completed")
