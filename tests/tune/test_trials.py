"""Single trials, without processes: what they report, and what is none."""

import json

import pytest
from studies import small_tuning

from gs_modules.train import cli, data
from gs_modules.train.config_file import ConfigError
from gs_modules.train.sections import ImpossibleValueError
from gs_modules.train.tune.worker import train_trial

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


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
