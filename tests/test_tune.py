"""The search: its space, what it refuses, and studies of real trials that are killed and go on."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from postgres import server
from rich.console import Console
from runs import COMMAND

from gs_modules.train import cli, data, yaml_text
from gs_modules.train.config_file import ConfigError
from gs_modules.train.config_file import load as load_config
from gs_modules.train.sections import ImpossibleValueError
from gs_modules.train.tune import tuning as tuning_module
from gs_modules.train.tune.config import load
from gs_modules.train.tune.report import (
    as_csv,
    history,
    importance_bars,
    importances,
    ranked,
    write_results,
)
from gs_modules.train.tune.space import suggest, values_of_base
from gs_modules.train.tune.storage import GRACE, RETRIES, StorageError, open_database
from gs_modules.train.tune.study import open_study
from gs_modules.train.tune.worker import train_trial

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]

CONFIGS = Path(__file__).parents[1] / "configs"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
SMALL = """
base:
  model: {hidden: [8], num_latents: 2, num_classes: 3}
  training: {steps: 60, batch_size: 50, evaluate_every: 20, checkpoint_every: 20}
study: {name: small, trials: 4, workers: 2}
search:
  temperature.kind: [constant, exponential]
  temperature.value: {low: 0.3, high: 2.0, log: true}
  temperature.rate: {low: 1e-3, high: 1e-1, log: true}
  optimizer.learning_rate: {low: 1e-3, high: 1e-1, log: true}
"""


@pytest.fixture(autouse=True)
def workers_that_compile_fast(monkeypatch):
    """Most of the time of such small trials is XLA's."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("s.yaml")
    path.write_text(SMALL)
    return path


def given(file, text, *flags):
    file.write_text(text)
    return load(file, flags, check_root=False)


def refusals(file, text, *flags):
    with pytest.raises(ConfigError) as refused:
        given(file, text, *flags)
    return refused.value.lines


# The space.


def drawn(tuning, count=200):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    return [suggest(study.ask(), tuning.search, tuning.base) for _ in range(count)]


def test_keys_of_a_kind_are_in_the_trials_of_that_kind_alone(file):
    found = drawn(given(file, SMALL))
    assert {frozenset(params) for params in found} == {
        frozenset({"temperature.kind", "temperature.value", "optimizer.learning_rate"}),
        frozenset({"temperature.kind", "temperature.rate", "optimizer.learning_rate"}),
    }
    kinds = Counter(params["temperature.kind"] for params in found)
    # Half of 200 each, with a standard deviation of 7: a false alarm in 1e9 draws.
    assert all(abs(count - 100) < 6 * 7.1 for count in kinds.values())


def test_every_kind_can_be_searched_with_all_of_its_keys_and_every_trial_is_a_config():
    tuning = load(CONFIGS / "tune_digits.yaml", check_root=True)
    for params in drawn(tuning):
        config = tuning.config_of(params)
        for key, value in params.items():
            section, name = key.split(".")
            assert getattr(getattr(config, section), name) == value
        rest = {"seed", "framework", "data", "model", "training"}
        assert config.model_dump(include=rest) == tuning.base.model_dump(include=rest)


def test_a_search_within_the_kind_of_the_base_needs_no_kind(file):
    tuning = given(file, "search: {temperature.rate: [1e-3, 1e-2]}")
    assert {params["temperature.rate"] for params in drawn(tuning)} == {1e-3, 1e-2}


def test_ranges_keep_their_ends_their_steps_and_their_scale(file):
    tuning = given(
        file,
        "search:\n"
        "  training.batch_size: {low: 20, high: 100, step: 40}\n"
        "  model.num_latents: {low: 1, high: 3}\n"
        "  optimizer.learning_rate: {low: 1e-4, high: 1e-2, log: true}\n"
        "  training.flip_probability: {low: 0, high: 0.5}\n",
    )
    found = {key: [params[key] for params in drawn(tuning)] for key in tuning.search}
    assert set(found["training.batch_size"]) == {20, 60, 100}
    assert set(found["model.num_latents"]) == {1, 2, 3}
    assert all(isinstance(value, int) for value in found["model.num_latents"])
    # Uniform: means within five standard errors, a false alarm in 2e6 draws.
    scaled = (np.log10(found["optimizer.learning_rate"]) + 4) / 2
    for uniform in (scaled, np.divide(found["training.flip_probability"], 0.5)):
        assert uniform.min() >= 0 and uniform.max() <= 1
        assert abs(uniform.mean() - 0.5) < 5 / np.sqrt(12 * len(uniform))


def test_lists_are_values_too(file):
    tuning = given(file, "search: {model.hidden: [[8], [16, 8]], model.prior: [uniform, learned]}")
    configs = [tuning.config_of(params) for params in drawn(tuning, 40)]
    assert {config.model.hidden for config in configs} == {(8,), (16, 8)}
    assert {config.model.prior for config in configs} == {"uniform", "learned"}


def test_the_values_of_the_base_are_the_first_trial_as_far_as_the_space_holds_them(file):
    tuning = given(file, SMALL)
    expected = {"temperature.kind": "exponential", "optimizer.learning_rate": 2e-3}
    assert values_of_base(tuning.search, tuning.base) == expected  # the rate of 2e-4 is below low
    study = optuna.create_study()
    study.enqueue_trial(expected)
    assert expected.items() < suggest(study.ask(), tuning.search, tuning.base).items()


# The file.


def test_the_sample_is_the_digits_recipe_with_validation_images():
    tuning = load(CONFIGS / "tune_digits.yaml", check_root=True)
    digits = load_config(CONFIGS / "digits.yaml", [("data.validation", "237")])
    assert tuning.base == digits
    assert (tuning.study.name, tuning.study.trials, tuning.study.storage) == (
        "tune_digits",
        60,
        None,
    )


def test_the_config_that_was_found_is_the_best_trial_of_the_search_rounded():
    tuning = load(CONFIGS / "tune_digits.yaml")
    found = load_config(CONFIGS / "digits_tuned.yaml")
    rows = list(csv.DictReader((RESULTS / "tune_digits.csv").read_text().splitlines()))
    assert len(rows) == tuning.study.trials
    best = min((row for row in rows if row["bound"]), key=lambda row: float(row["bound"]))
    params = {key: yaml_text.scalar(best[key]) for key in tuning.search if best[key]}
    rounded = {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in params.items()}
    expected = tuning.config_of(rounded).model_dump()
    expected["data"]["validation"] = 0
    assert found.model_dump() == expected


def test_what_was_found_beats_the_default_by_more_than_three_standard_errors_of_seeds():
    bounds = json.loads((RESULTS / "tuned_digits.json").read_text())["test_neg_elbo"]
    default, tuned = np.array(bounds["digits"]), np.array(bounds["digits_tuned"])
    assert len(default) == len(tuned) == 8
    error = np.sqrt((default.var(ddof=1) + tuned.var(ddof=1)) / 8)
    assert default.mean() - tuned.mean() > 3 * error


def test_what_is_printed_loads_as_equal(file, capsys):
    assert cli.main(["tune", str(file), "--print-config", "--study.trials", "7"]) == 0
    printed = capsys.readouterr().out
    tuning = given(file, printed)
    assert tuning.study.trials == 7 and tuning.to_yaml() == printed


def test_flags_reach_the_base_the_study_and_the_search(file):
    flags = [
        ("training.steps", "80"),
        ("study.seed", "3"),
        ("search.temperature.rate", "null"),
        ("search.temperature.value", "[1, 2]"),
        ("temperature.kind", "constant"),
    ]
    tuning = given(file, SMALL, *flags)
    assert (tuning.base.training.steps, tuning.study.seed) == (80, 3)
    assert tuning.base.temperature.model_dump() == {"kind": "constant", "value": 1.0}
    assert set(tuning.search) == {
        "temperature.kind",
        "temperature.value",
        "optimizer.learning_rate",
    }
    assert tuning.search["temperature.value"].ends() == (1, 2)


def test_keys_beside_the_file_of_a_base_are_on_top_of_it_and_flags_on_top_of_these(file):
    Path("base.yaml").write_text("seed: 1\nmodel: {hidden: [5], num_latents: 3}\n")
    text = (
        "base:\n"
        "  file: base.yaml\n"
        "  model: {num_latents: 4, num_classes: 5}\n"
        "  temperature: {kind: cosine, steps: 60}\n"
        "search: {seed: [1, 2]}"
    )
    tuning = given(file, text, ("model.num_classes", "6"))
    assert tuning.base.model.model_dump(exclude={"prior"}) == {
        "num_latents": 4,
        "num_classes": 6,
        "hidden": (5,),
    }
    assert (tuning.base.seed, tuning.base.temperature.kind) == (1, "cosine")


@pytest.mark.parametrize(
    ("url", "written"),
    [
        ("postgresql://me:s3cret@host:5/db", "postgresql://me:***@host:5/db"),
        ("postgresql://me:a:b/s3cret@x@host/db", "postgresql://me:***@host/db"),
        (
            "postgresql://host/db?user=me&password=s3cret",
            "postgresql://host/db?user=me&password=***",
        ),
    ],
)
def test_the_password_of_a_database_is_written_nowhere(url, written, file):
    tuning = given(file, SMALL, ("study.storage", url))
    assert tuning.study.storage == url
    assert written in tuning.to_yaml()
    assert "s3cret" not in tuning.to_yaml() + json.dumps(tuning.flat())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["config: search: expected keys to search, such as 'temperature.end: [0.3, 0.5]'"]),
        (
            "serach: {}\nsearch: {seed: [1]}",
            ["1: serach: unknown key 'serach'; did you mean 'search'?"],
        ),
        (
            "seed: 1\nsearch: {seed: [1]}",
            ["1: seed: seed belongs to a config; write it under base"],
        ),
        (
            "base: 3\nsearch: {seed: [1]}",
            ["1: base: expected the name of a file, or keys and values; got 3"],
        ),
        (
            "base: no.yaml\nsearch: {seed: [1]}",
            ["1: base: no.yaml: cannot be read: No such file or directory"],
        ),
        (
            "base: {file: 3}\nsearch: {seed: [1]}",
            ["1: base.file: expected the name of a file, got 3"],
        ),
        (
            "search: 3",
            [
                "1: search: expected keys and values, got 3",
                "1: search: expected keys to search, such as 'temperature.end: [0.3, 0.5]'",
            ],
        ),
        (
            "base:\n  modle: {}\n  data: {validation: 0}\nsearch: {seed: [1]}",
            ["2: modle: unknown key 'modle'; did you mean 'model'?"],
        ),
        (
            "base:\n  data: {validation: 0}\nsearch: {seed: [1]}",
            [
                "2: data.validation: trials are compared by validation images; keep some, such as "
                "237 of digits"
            ],
        ),
        (
            "study:\n  trails: 3\n  pruner: medium\n  seed: -1\n  workers: 1.5\n"
            "search:\n  sed: [1]\n",
            [
                "2: study.trails: unknown key 'trails'; did you mean 'trials'?",
                "3: study.pruner: unknown pruner 'medium'; did you mean 'median'?",
                "4: study.seed: must be at least 0, got -1",
                "5: study.workers: expected an integer, got 1.5",
                "7: search.sed: unknown key 'sed'; did you mean 'seed'?",
            ],
        ),
        (
            "search:\n"
            "  temperature.kind: [constnt, exponential]\n"
            "  temperature.period: [100]\n"
            "  temperature.end: {low: 0, high: 1, log: true}\n"
            "  temperature.start: {low: 0, high: 1}\n"
            "  model.num_latents: {low: 1.5, high: 2}\n"
            "  framework: [nxn]\n"
            "  estimator.kind: {low: 2, high: 3}\n"
            "  training.batch_size: {hihg: 3, low: 2}\n"
            "  optimizer.learning_rate: 3\n"
            "  data.validation: [237, 100]\n"
            "  training.steps: [5, 5]\n"
            "  optimizer.weight_decay: {low: 2, high: 1}\n"
            "  training.flip_probability: {low: 0.1, high: 0.2, log: true, step: 0.1}\n"
            "  model.hidden: [3]\n",
            [
                "2: search.temperature.kind: unknown kind 'constnt'; did you mean 'constant'?",
                "3: search.temperature.period: no temperature of this search has it: cyclic would; "
                "add one to temperature.kind in search, or remove this line",
                "4: search.temperature.end: low must be positive where log is true, got low=0.0",
                "5: search.temperature.start: Exponential start must be positive and finite in "
                "float32, got 0.0",
                "6: search.model.num_latents: expected integers, as model.num_latents is one",
                "7: search.framework: unknown framework 'nxn'; did you mean 'nnx'?",
                "8: search.estimator.kind: expected a list of values: estimator.kind is pathwise | "
                "straight_through_gumbel | straight_through | decoupled | gumbel_rao | gapped | "
                "reinmax | argmax",
                "9: search.training.batch_size.high: missing",
                "9: search.training.batch_size.hihg: unknown key 'hihg'; did you mean 'high'?",
                "10: search.optimizer.learning_rate: expected a list of values, or low and high; "
                "got 3",
                "11: search.data.validation: trials are compared by the same images; set it under "
                "base",
                "12: search.training.steps: expected different values, got [5, 5]",
                "13: search.optimizer.weight_decay: low must be below high, got low=2.0 and "
                "high=1.0",
                "14: search.training.flip_probability: step and log exclude each other; leave one "
                "out",
                "15: search.model.hidden: expected a list, got 3",
            ],
        ),
    ],
)
def test_faults_are_reported_at_once_and_where_they_are(file, text, expected):
    found = refusals(file, text)
    assert [line.removeprefix("s.yaml:") for line in found] == expected


def test_faults_of_flags(file):
    flags = [("study.workers", "0"), ("search.training.steps", "5"), ("training.stps", "5")]
    assert refusals(file, SMALL, *flags) == [
        "--study.workers: must be at least 1, got 0",
        "--search.training.steps: expected a list of values, or low and high; got 5",
        "--training.stps: unknown key 'stps'; did you mean 'steps'?",
    ]


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--trials", "unknown flag --trials; did you mean --study.trials?"),
        ("--study", "--study is a section; write --study.KEY, see --help"),
        ("--stdy-dir=x", "unknown flag --stdy-dir; did you mean --study-dir?"),
    ],
)
def test_a_misspelt_flag_is_answered_with_the_nearest(flag, said, file, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["tune", str(file), flag, "5"])
    assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("joint", [" ", "="])
def test_a_misspelt_search_is_answered_with_the_nearest(joint, file, capsys):
    words = f"--search.temperature.ends{joint}[0.1,0.3]".split(" ")
    assert cli.main(["tune", str(file), "--print-config", *words]) == 2
    assert capsys.readouterr().err == (
        "--search.temperature.ends: unknown key 'temperature.ends'; did you mean "
        "'temperature.end'?\n"
    )


def test_help_has_every_flag(capsys):
    with pytest.raises(SystemExit):
        cli.main(["tune", "--help"])
    text = capsys.readouterr().out
    for flag in ("--study-dir", "--study.storage", "--temperature.kind", "--base", "--search.KEY"):
        assert flag in text
    assert "--run-dir" not in text


# Trials, without processes.


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def small_tuning(tmp_path, **changes):
    path = tmp_path / "s.yaml"
    path.write_text(SMALL)
    flags = [(name.replace("__", "."), str(value)) for name, value in changes.items()]
    return load(path, flags, check_root=False)


def test_a_trial_is_judged_by_what_train_would_report(tmp_path, digits):
    config = small_tuning(tmp_path).base
    seen = []

    def go_on(step, bound):
        seen.append((step, bound))
        return True

    kind, bound, step = train_trial(config, digits, go_on)
    run = tmp_path / "run"
    (tmp_path / "c.yaml").write_text("")
    flags = ["--model.hidden=[8]", "--model.num_latents=2", "--model.num_classes=3"]
    for key, value in (("steps", 60), ("batch_size", 50), ("evaluate_every", 20)):
        flags.append(f"--training.{key}={value}")
    flags += ["--training.checkpoint_every=20", f"--run-dir={run}"]
    assert cli.main(["train", f"{tmp_path / 'c.yaml'}", *flags]) == 0
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    reported = [
        (record["step"], record["neg_elbo"])
        for record in records
        if record["split"] == "validation"
    ]
    assert seen == reported and len(seen) == 3
    assert (kind, bound) == ("complete", pytest.approx(min(bound for _, bound in seen)))
    assert step == json.loads((run / "summary.json").read_text())["step"]


def test_a_trial_ends_when_it_is_told_but_not_after_its_last_step(tmp_path, digits):
    config = small_tuning(tmp_path).base
    told = []
    assert train_trial(config, digits, lambda step, bound: told.append(step)) == (
        "pruned",
        "at step 20, by study.pruner",
    )
    assert told == [20]
    assert train_trial(config, digits, lambda step, bound: step < 60)[0] == "complete"


def test_more_images_in_a_batch_than_there_are_is_no_trial(tmp_path, digits):
    config = small_tuning(tmp_path, training__batch_size=5000).base
    with pytest.raises(
        ImpossibleValueError, match=r"batch_size: must be at most 1200, .* got 5000"
    ):
        train_trial(config, digits, lambda step, bound: True)


def test_an_impossible_combination_is_named(tmp_path):
    tuning = small_tuning(
        tmp_path, search__training__evaluate_every="[20, 30]", training__checkpoint_every=20
    )
    params = {"training.evaluate_every": 30}
    with pytest.raises(ConfigError, match="checkpoint_every must be a multiple of evaluate_every"):
        tuning.config_of(params)


# Studies, without processes.


def trials_of(folder, name="small"):
    storage = optuna.storages.JournalStorage(JournalFileBackend(f"{folder / 'journal.log'}"))
    return optuna.load_study(study_name=name, storage=storage).trials


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


# Results.


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


# Whole studies.


def command(folder, *flags):
    path = folder.parent / "s.yaml"
    path.write_text(SMALL)
    return [*COMMAND, "tune", str(path), "--study-dir", str(folder), *flags]


def started(words):
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines_until(process, pattern):
    """What the process says, up to the first line that matches."""
    said = []
    for line in process.stdout:
        said.append(line)
        if re.search(pattern, line):
            return "".join(said)
    raise AssertionError(f"the process ended before it said {pattern!r}: {''.join(said)}")


def workers_of(said):
    return [int(number) for number in re.findall(r"\d+", said.split("processes")[1].split("\n")[0])]


def is_running(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def results_of(folder):
    return json.loads((folder / "study.json").read_text())


def test_a_study_ends_with_a_config_that_train_takes_a_table_and_figures(tmp_path, capsys):
    folder = tmp_path / "study"

    def tune(*flags):
        code = cli.main(command(folder, *flags)[len(COMMAND) :])
        return code, *capsys.readouterr()

    code, output, errors = tune()
    assert (code, errors) == (0, "")
    results = results_of(folder)
    assert [trial["number"] for trial in results["trials"]] == [0, 1, 2, 3]
    complete = [trial for trial in results["trials"] if trial["state"] == "complete"]
    best = min(complete, key=lambda trial: trial["bound"])
    assert results["best"] == best["number"]
    for trial in complete:
        assert list(trial["bounds"]) == ["20", "40", "60"]
        assert trial["bound"] == pytest.approx(min(trial["bounds"].values()), rel=1e-6)
    assert len((folder / "trials.csv").read_text().splitlines()) == 5
    figures = {"history.png", "importance.png", "temperatures.png"}
    assert {path.name for path in (folder / "figures").iterdir()} == figures
    text = (folder / "best.yaml").read_text()
    assert f"trial {best['number']}, validation negative ELBO {best['bound']:.3f} nats" in text
    config = load_config(folder / "best.yaml")
    assert config == load(folder / "study.yaml", check_root=True).config_of(best["params"])
    assert f"{best['bound']:.3f} nats" in output

    before = files_of(folder)
    code, output, _ = tune()
    assert code == 0 and "finished already: 4 trials" in output
    assert files_of(folder) == before
    code, _, errors = tune("--study.seed", "5", "--training.steps", "80")
    assert code == 2 and "--study-dir" in errors
    assert errors.splitlines()[1:] == [
        f"{folder / 'study.yaml'}: training.steps: 60 -> 80",
        f"{folder / 'study.yaml'}: study.seed: 0 -> 5",
    ]
    assert files_of(folder) == before
    code, output, _ = tune("--study.trials", "5", "--study.workers", "1")
    assert code == 0 and "continuing with 4 trials finished" in output
    assert results_of(folder)["trials"][:4] == results["trials"]
    assert len(results_of(folder)["trials"]) == 5


LONG = ("--training.steps", "1000", "--study.trials", "4", "--study.pruner", "none")


@pytest.mark.slow
def test_a_killed_worker_is_reported_and_its_trial_run_again_by_another(tmp_path):
    folder = tmp_path / "study"
    with started(command(folder, *LONG)) as process:
        first, _ = workers_of(lines_until(process, "processes"))
        rest = lines_until(process, "trial")
        os.kill(first, signal.SIGKILL)
        output, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, "")
    died = re.search(r"worker 1 died( in trial (\d+))?: SIGKILL; see (.*)", rest + output)
    assert died and died[3] == str(folder / "worker-1.log")
    trials = trials_of(folder)
    assert len(results_of(folder)["trials"]) == 4
    lost = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert [f"{trial.number}" for trial in lost] == [died[2]] * len(lost)
    assert len(lost) == (died[2] is not None)
    for trial in lost:
        again = [one for one in trials if one.params == trial.params and one is not trial]
        assert [one.state for one in again] == [TrialState.COMPLETE]


@pytest.mark.slow
def test_when_everything_is_killed_no_finished_trial_is_lost(tmp_path):
    folder = tmp_path / "study"
    with started(command(folder, *LONG)) as process:
        workers = workers_of(lines_until(process, "processes"))
        lines_until(process, "2/4 ")
        process.kill()
        process.wait()
    deadline = time.monotonic() + 10
    while any(is_running(worker) for worker in workers):  # they end by themselves
        assert time.monotonic() < deadline
        time.sleep(0.05)
    before = {trial.number: trial for trial in trials_of(folder)}
    kept = {n: trial.value for n, trial in before.items() if trial.state == TrialState.COMPLETE}
    running = [trial for trial in before.values() if trial.state == TrialState.RUNNING]
    assert len(kept) >= 2 and running
    done = subprocess.run(command(folder, *LONG), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and f"continuing with {len(kept)} trials" in done.stdout
    after = trials_of(folder)
    assert {number: after[number].value for number in kept} == kept
    for trial in running:
        assert after[trial.number].state == TrialState.FAIL
        again = [one for one in after[len(before) :] if one.params.items() >= trial.params.items()]
        assert any(one.state == TrialState.COMPLETE for one in again)
    assert len(results_of(folder)["trials"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_stops_all_workers_and_loses_nothing_finished(number, exit_code, tmp_path):
    folder = tmp_path / "study"
    with started(command(folder, *LONG, "--training.steps", "1000000")) as process:
        workers = workers_of(lines_until(process, "processes"))
        second = subprocess.run(command(folder, *LONG), capture_output=True, text=True, timeout=60)
        began = time.monotonic()
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert second.returncode == 2  # while the first is there, whatever the config
    assert time.monotonic() - began < 10
    assert not any(is_running(worker) for worker in workers)
    assert process.returncode == exit_code
    assert output == "stopping the workers; once more stops now\n"
    assert errors == "stopped with 0 trials finished; the same command continues\n"
    assert TrialState.RUNNING not in {trial.state for trial in trials_of(folder)}


def test_a_second_process_in_the_folder_and_a_folder_of_other_things_are_refused(
    file, tmp_path, capsys
):
    tuning = load(file, check_root=False)
    folder = tmp_path / "study"
    with tuning_module._folder_of(tuning, folder):
        assert cli.main(["tune", str(file), "--study-dir", str(folder)]) == 2
        assert f"{folder}: another process tunes here" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    assert cli.main(["tune", str(file), "--study-dir", str(tmp_path / "full")]) == 2
    assert "not empty and not a study" in capsys.readouterr().err


def test_when_no_worker_is_left_it_says_so(file, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert cli.main(["tune", str(file), "--study-dir", "s"]) == 1
    output = capsys.readouterr()
    assert "worker 1 died" in output.out and "exit code 1; see s/worker-1.log" in output.out
    assert output.err == "no worker is left; the same command continues\n"


@pytest.mark.slow
def test_a_full_disk_is_one_line_that_names_the_journal(tmp_path):
    folder = tmp_path / "study"
    words = command(folder)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000)); "
    words[2] = limit + words[2]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, f"{folder / 'journal.log'}: File too large\n")
    done = subprocess.run(command(folder), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and len(results_of(folder)["trials"]) == 4


def joined(url, tmp_path, count, *flags):
    """Several commands at once on one database, each as if on a machine of its own."""
    options = ("--study.storage", url, "--study.workers", "1", *flags)
    folders = [tmp_path / f"machine-{number}" / "study" for number in range(count)]
    for folder in folders:
        folder.parent.mkdir()
    processes = [started(command(folder, *options)) for folder in folders]
    for process in processes:
        _, errors = process.communicate(timeout=400)
        assert (process.returncode, errors) == (0, "")
    results = [results_of(folder) for folder in folders]
    trials = results[0]["trials"]
    assert len(trials) >= 4 and all(trial["state"] != "failed" for trial in trials)
    # What the machines see is the same.
    assert all(result["trials"][:4] == trials[:4] for result in results)
    return trials


@pytest.mark.slow
def test_commands_at_once_on_one_sqlite_database_share_its_trials(tmp_path):
    joined(f"sqlite:///{tmp_path}/study.db", tmp_path, 2)


@pytest.mark.slow
def test_four_workers_drive_a_study_in_postgresql_and_one_is_killed(tmp_path):
    with server() as (url, stop):
        trials = joined(url, tmp_path, 4, "--study.trials", "12")
        assert 12 <= len(trials) <= 15
        assert len({json.dumps(trial["params"]) for trial in trials}) == len(trials)
        # One command with four workers, of which one is killed.
        folder = tmp_path / "one" / "study"
        folder.parent.mkdir()
        options = ("--study.storage", url, "--study.name", "two", "--study.workers", "4")
        with started(command(folder, *options, "--study.trials", "10")) as process:
            workers = workers_of(lines_until(process, "processes"))
            rest = lines_until(process, "4/10 ")
            os.kill(workers[0], signal.SIGKILL)
            output, errors = process.communicate(timeout=400)
        assert (process.returncode, errors) == (0, "")
        assert len(workers) == 4 and "worker 1 died" in rest + output
        assert len(results_of(folder)["trials"]) == 10
        # A server that goes away is one line.
        other = command(folder.with_name("three"), *options, "--study.name", "three")
        with started(other) as process:
            lines_until(process, "processes")
            stop()
            _, errors = process.communicate(timeout=120)
        assert process.returncode == 1 and len(errors.splitlines()) == 1
        assert "connection" in errors
