"""The file of a study and its flags: what they mean, and what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from studies import CONFIGS, SMALL, given

from gs_modules.train import cli, yaml_text
from gs_modules.train.config_file import ConfigError
from gs_modules.train.config_file import load as load_config
from gs_modules.train.tune.config import load

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def refusals(file, text, *flags):
    with pytest.raises(ConfigError) as refused:
        given(file, text, *flags)
    return refused.value.lines


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
