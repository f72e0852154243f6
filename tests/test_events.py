"""The events of a run, read back as TensorBoard reads them."""

import errno
import json
import os
import resource
import shutil
from contextlib import closing

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gs_modules.train import cli
from gs_modules.train.events import Events

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]


def scalars(folder):
    """What TensorBoard shows: ``{tag: [(step, value), ...]}``."""
    shown = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, event.value) for event in shown.Scalars(tag)]
        for tag in shown.Tags()["scalars"]
    }


def records(steps, offset=0.0):
    return [{"step": step, "split": "train", "neg_elbo": step + offset} for step in steps]


def test_a_continued_run_shows_each_step_once(tmp_path):
    with closing(Events(tmp_path, after=0)) as events:
        events.append(records([10, 20, 30, 40]))  # and was killed; the checkpoint is of step 20
    with closing(Events(tmp_path, after=20)) as events:
        events.append(records([30], offset=0.5))
    assert scalars(tmp_path / "train") == {"neg_elbo": [(10, 10), (20, 20), (30, 30.5)]}


def test_events_are_on_the_disk_before_the_next_step(tmp_path):
    with closing(Events(tmp_path, after=0)) as events:
        events.append(records([10]))
        shutil.copytree(tmp_path / "train", tmp_path / "seen by a process that kills it")
    assert scalars(tmp_path / "seen by a process that kills it") == {"neg_elbo": [(10, 10)]}


def test_the_test_images_are_shown_once_whatever_step_is_kept(tmp_path):
    for value in (1.0, 2.0):  # the first process was killed right after it
        for file in (tmp_path / "test").glob("*"):  # long ago, and not in this second
            file.rename(file.with_name(file.name.replace(".tfevents.", ".tfevents.0")))
        with closing(Events(tmp_path, after=50)) as events:
            events.append([{"step": 40, "split": "test", "neg_elbo": value}])
    assert len(list((tmp_path / "test").iterdir())) == 2
    assert scalars(tmp_path / "test") == {"neg_elbo": [(40, 2.0)]}


def test_a_disk_that_fills_up_is_named(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (
        pytest.raises(OSError, match=os.strerror(errno.EFBIG)) as refused,
        closing(Events(tmp_path, after=0)) as events,
    ):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
            events.append(records([10]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert refused.value.filename == str(tmp_path)


def test_a_run_shows_its_metrics_also_after_it_was_killed(tmp_path, capsys):
    config = tmp_path / "small.yaml"
    config.write_text(
        "model: {hidden: [16], num_latents: 3, num_classes: 4}\n"
        "training: {steps: 30, batch_size: 100, evaluate_every: 10, checkpoint_every: 10}\n"
    )
    run = tmp_path / "run"
    for said in ("compiled", "continuing from step 20"):
        assert cli.main(["train", str(config), "--run-dir", str(run)]) == 0
        assert said in capsys.readouterr().out
        lines = (run / "metrics.jsonl").read_text().splitlines()
        written = [json.loads(line) for line in lines]
        for split in ("train", "validation", "test"):
            of_split = [record for record in written if record["split"] == split]
            shown = scalars(run / "events" / split)
            assert shown.keys() == of_split[0].keys() - {"step", "split"}
            for name, points in shown.items():
                assert points == [(r["step"], pytest.approx(r[name])) for r in of_split]
        # As if it had been killed after its last step was measured, and before it was saved.
        (run / "summary.json").unlink()
        shutil.rmtree(run / "checkpoints" / "30")
