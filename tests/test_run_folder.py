"""The folder of a run: begun anew, shared, damaged, and of something else."""

import os
import shutil
import subprocess

import pytest
from runs import (
    COMMAND,
    flags,
    long_command,
    records_of,
    small_config,
    started,
    wait_until,
    without_speed,
)

from gs_modules.train import cli
from gs_modules.train.config import to_yaml
from gs_modules.train.config_file import ConfigError, load
from gs_modules.train.run_directory import RunDirectory

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]


def test_restart_keeps_the_old_run_aside(empty_config, tmp_path):
    run = tmp_path / "run"
    short = flags(training__steps=20, temperature__steps=20)
    command = ["train", str(empty_config), "--run-dir", str(run), *short]
    assert cli.main(command) == 0
    old = (run / "summary.json").read_bytes()
    assert cli.main([*command, "--restart", "--seed", "1"]) == 0
    assert (tmp_path / "run.1" / "summary.json").read_bytes() == old
    assert load(run / "config.yaml").seed == 1


def test_restart_moves_the_run_that_a_link_leads_to(tmp_path):
    run, link = tmp_path / "disk" / "run", tmp_path / "link"
    run.mkdir(parents=True)
    link.symlink_to(run)
    for seed in (0, 1):
        with RunDirectory(link).opened(small_config(seed=seed), restart=True):
            pass
    assert link.readlink() == run and sorted(os.listdir(run.parent)) == ["run", "run.1"]
    assert [load(run.with_name(n) / "config.yaml").seed for n in ("run.1", "run")] == [0, 1]


@pytest.mark.parametrize(
    "restart",
    [
        pytest.param([], id="continue"),
        pytest.param(["--restart"], id="restart", marks=pytest.mark.slow),
    ],
)
def test_a_second_process_is_refused_while_the_first_trains(
    restart, empty_config, tmp_path, capsys
):
    run = tmp_path / "run"
    command = ["train", str(empty_config), "--run-dir", str(run), *flags(), *restart]
    with started(long_command(run)) as process:
        wait_until((run / "metrics.jsonl").exists, process)
        before = (run / "config.yaml").stat().st_ino
        assert cli.main(command) == 2
        assert (run / "config.yaml").stat().st_ino == before and not (tmp_path / "run.1").exists()
        process.kill()
    assert capsys.readouterr().err == (
        f"{run}: another process trains here; wait for it, or write --run-dir with another folder\n"
    )
    assert cli.main([*command, *flags(training__steps=20), "--restart"]) == 0  # it is free again


def test_a_run_that_was_killed_before_it_wrote_its_config_begins(empty_config, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").touch()
    (run / "config.yaml.123.part").write_text("seed")
    short = flags(training__steps=20, temperature__steps=20)
    assert cli.main(["train", str(empty_config), "--run-dir", str(run), *short]) == 0


def test_a_folder_of_something_else_is_left_alone(empty_config, tmp_path, capsys):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    run = tmp_path / "thesis"
    for restart in ([], ["--restart"]):
        command = ["train", str(empty_config), "--run-dir", str(run), *restart]
        assert cli.main(command) == 2
        assert "not a run" in capsys.readouterr().err
    assert os.listdir(run) == ["chapter.tex"]


@pytest.fixture(scope="module")
def unfinished_run(tmp_path_factory):
    """Ended after step 40 was saved, when the summary was about to be written."""
    run = tmp_path_factory.mktemp("unfinished") / "run"
    config = run.parent / "small.yaml"
    config.write_text("")
    command = ["train", str(config), *flags(training__steps=40, temperature__steps=40)]
    subprocess.run([*COMMAND, *command, "--run-dir", str(run)], check=True, capture_output=True)
    (run / "summary.json").unlink()
    return command, run


RECORD = (
    "expected an object with step, split, neg_elbo, reconstruction, kl, temperature, perplexity, "
    "codes_used, steps_per_second"
)
DAMAGE = {
    "removed": (None, "1: ends before step 20, and the checkpoint is of step 40"),
    "empty": (lambda lines: [], "1: ends before step 20, and the checkpoint is of step 40"),
    "ends early": (
        lambda lines: lines[:2],
        "3: ends before step 40, and the checkpoint is of step 40",
    ),
    "cut within": (lambda lines: [lines[0][:30], *lines[1:]], "1: not JSON"),
    "no text": (lambda lines: [lines[0], b"\xff\0", *lines[1:]], "2: not JSON"),
    "deep": (lambda lines: [lines[0], b"[" * 10**5, *lines[1:]], "2: not JSON"),
    "a line removed": (
        lambda lines: [lines[0], *lines[2:]],
        "2: expected split validation of step 20, got train of 40",
    ),
    "a line doubled": (
        lambda lines: [lines[0], *lines],
        "2: expected split validation of step 20, got train of 20",
    ),
    "a key renamed": (
        lambda lines: [lines[0].replace(b'"kl"', b'"km"'), *lines[1:]],
        f"1: {RECORD}",
    ),
    "another object": (lambda lines: [*lines, b'{"a": 1}'], f"6: {RECORD}"),
    "a list": (lambda lines: [b"[1]", *lines], f"1: {RECORD}"),
    "a step in words": (
        lambda lines: [lines[0].replace(b'"step": 20', b'"step": "20"'), *lines[1:]],
        f"1: {RECORD}",
    ),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_metrics_of_an_unfinished_run_are_refused(damage, reason, unfinished_run, tmp_path):
    _, whole = unfinished_run
    run = RunDirectory(tmp_path)
    if damage:
        lines = (whole / "metrics.jsonl").read_bytes().splitlines()
        run.metrics.write_bytes(b"\n".join(damage(lines)))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ConfigError) as refused:
        run.forget_after(40, [(n, s) for n in (20, 40) for s in ("train", "validation")])
    assert refused.value.lines == [f"{run.metrics}:{reason}; --restart begins anew"]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_metrics_that_were_removed_are_missed(unfinished_run, tmp_path, capsys):
    command, whole = unfinished_run
    run = shutil.copytree(whole, tmp_path / "run")
    (run / "metrics.jsonl").unlink()
    assert cli.main([*command, "--run-dir", str(run)]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith(f"{run / 'metrics.jsonl'}:1: ends before step 20") and said.out == ""


def test_checkpoints_that_were_removed_are_missed(unfinished_run, tmp_path, capsys):
    command, whole = unfinished_run
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    before = (run / "metrics.jsonl").read_bytes()
    assert cli.main([*command, "--run-dir", str(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{run / 'checkpoints'}: no checkpoint, and the metrics reach step 40")
    assert "--restart" in line and (run / "metrics.jsonl").read_bytes() == before


def test_a_run_killed_before_its_first_checkpoint_was_whole_begins_again(unfinished_run, tmp_path):
    command, whole = unfinished_run
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(run / "checkpoints")
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:2]))
    assert cli.main([*command, "--run-dir", str(run)]) == 0
    assert without_speed(records_of(run)) == without_speed(records_of(whole))


def test_a_last_line_that_was_cut_is_forgotten(unfinished_run, tmp_path):
    command, whole = unfinished_run
    run = shutil.copytree(whole, tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 50, "spl')
    assert cli.main([*command, "--run-dir", str(run)]) == 0
    assert without_speed(records_of(run)) == without_speed(records_of(whole))


@pytest.mark.parametrize("folder", ["checkpoints", "figures", "events"])
def test_a_file_in_the_place_of_a_folder_is_refused_before_training(
    folder, empty_config, tmp_path, capsys
):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(small_config()))
    (run / folder).touch()
    command = ["train", str(empty_config), "--run-dir", str(run), *flags()]
    assert cli.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{run / folder}: not a folder; ")
    assert "--run-dir" in line and "--restart" in line
    assert {path.name for path in run.iterdir()} == {".lock", "config.yaml", folder}
