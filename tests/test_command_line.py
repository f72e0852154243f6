"""Wrong command lines and values: each is a line that names it, and nothing is written."""

import errno
import importlib.metadata
import os
from pathlib import Path

import pytest
from runs import flags, small_config

from gs_modules.train import cli
from gs_modules.train.config import to_yaml

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"gs-modules {importlib.metadata.version('gs-modules')}\n"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["--trainnig.steps", "5"], ["--trainnig.steps", "'training'"]),
        (["--training.steps", "many"], ["--training.steps", "expected an integer"]),
        (["--temperature.end", "-0.5"], ["--temperature.end", "positive"]),
        (["--framework", "linnen"], ["--framework", "linen"]),
        (["--data.name", "minst"], ["--data.name", "mnist"]),
        (["--data.name", "mnist"], ["data.root", "mnist"]),
        (
            ["--training.batch_size", "1201"],
            ["--training.batch_size: must be at most 1200"],
        ),
        (["--data.validation", "1437"], ["--data.validation: must be 0 to 1436", "1437"]),
        (["--data.name", "mnist", "--data.root", "nowhere"], ["data.root", "nowhere"]),
    ],
)
def test_a_wrong_command_line_is_one_line_and_writes_nothing(
    wrong, named, empty_config, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", str(empty_config), *wrong]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and all(name in error for name in named)
    assert os.listdir(tmp_path) == [empty_config.name]


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("trian", "unknown command 'trian'; did you mean 'train'?"),
        ("comapre", "unknown command 'comapre'; did you mean 'compare'?"),
        ("zzz", "unknown command 'zzz'; there are train, evaluate, tune, compare"),
    ],
)
def test_a_misspelt_command_is_answered_with_the_nearest_one(word, answer, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([word, "small.yaml"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"gs-modules: error: {answer}"


MANY_ROWS = ("seed: 1\ndata:\n  validation: 5000\n", "3: data.validation: must be 0 to 1436")


@pytest.mark.parametrize(
    ("command", "text", "fault"),
    [
        ("train", *MANY_ROWS),
        ("compare", *MANY_ROWS),
        (
            "train",
            "training:\n  batch_size: 5000\n",
            "2: training.batch_size: must be at most 1200",
        ),
        ("train", "data: {validation: 1400}\n", "1: training.batch_size: must be at most 37"),
    ],
)
def test_more_rows_than_there_are_is_refused_where_it_was_written(
    command, text, fault, empty_config, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    empty_config.write_text(text)
    assert cli.main([command, str(empty_config)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{empty_config}:{fault}")
    assert os.listdir(tmp_path) == [empty_config.name]


@pytest.mark.parametrize("value", ["-1e-3", "-.5", "-1"])
@pytest.mark.parametrize("joint", [" ", "="])
def test_a_negative_number_is_a_value_and_not_a_flag(value, joint, empty_config, capsys):
    words = f"--temperature.end{joint}{value}".split()
    assert cli.main(["train", str(empty_config), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--temperature.end: ") and line.endswith(f"got {float(value)}")


@pytest.mark.parametrize("command", [["train", "--run-dir"], ["compare", "--output"]])
def test_a_folder_has_a_name(command, empty_config, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command, "", str(empty_config)])
    assert stopped.value.code == 2
    assert f"{command[1]}: expected the name of a folder, got ''" in capsys.readouterr().err
    assert os.listdir(tmp_path) == [empty_config.name]


@pytest.mark.parametrize("command", [["train", "--run-dir"], ["compare", "--output"]])
def test_a_tilde_is_the_home_folder(command, empty_config, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert cli.main([*command, "~/file/run", str(empty_config), *flags()]) == 2
    assert capsys.readouterr().err.startswith(f"{command[1]}: {tmp_path}/file/run cannot be made")


def test_help_shows_values_as_they_are_written(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", "--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "--framework nnx | linen | haiku front-end (default: nnx)" in shown
    assert "--data.validation integer or null" in shown and "None" not in shown
    assert "digits needs none (default: null)" in shown and "(default: [512])" in shown


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("--num-processes 2", "--num-processes and --process-id need --coordinator-address"),
        ("--coordinator-address auto --process-id 0", "need --coordinator-address HOST:PORT"),
        ("--coordinator-address here", "expected HOST:PORT or auto, got 'here'"),
        ("--coordinator-address a:1 --num-processes 2", "a:1 needs --num-processes and"),
        (
            "--coordinator-address a:1 --num-processes 2 --process-id 2",
            "--process-id: must be less than --num-processes 2, got 2",
        ),
        ("--coordinator-address a:1 --num-processes 2 --process-id -1", "expected an integer"),
    ],
)
def test_processes_that_make_no_run_are_refused(words, reason, empty_config, tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        cli.main(["train", str(empty_config), "--run-dir", str(tmp_path / "run"), *words.split()])
    assert refused.value.code == 2 and reason in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("section", ["temperature", "data", "model"])
def test_a_section_is_no_flag(section, empty_config, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["train", str(empty_config), f"--{section}", "mnist"])
    assert stopped.value.code == 2
    assert f"--{section} is a section" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--run-dir", "--output"])
@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("file", errno.EEXIST),
        ("file/run", errno.ENOTDIR),
        ("link", errno.EEXIST),
        ("link/run", errno.EEXIST),
        ("loop", errno.EEXIST),
    ],
)
def test_a_folder_that_cannot_be_made_is_a_wrong_command_line(
    folder, reason, flag, empty_config, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("in the way")
    Path("link").symlink_to("nowhere")
    Path("loop").symlink_to("loop")
    before = sorted(os.listdir())
    command = "train" if flag == "--run-dir" else "compare"
    assert cli.main([command, str(empty_config), flag, folder, *flags()]) == 2
    assert capsys.readouterr().err == (
        f"{flag}: {folder} cannot be made a folder: {os.strerror(reason)}; choose another one\n"
    )
    assert sorted(os.listdir()) == before


def test_a_comparison_lies_beside_the_run_within_which_it_is_called(
    empty_config, tmp_path, capsys, monkeypatch
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run-compare").touch()
    monkeypatch.chdir(tmp_path / "run")
    assert cli.main(["compare", str(empty_config), "--run-dir", ".", *flags()]) == 2
    assert capsys.readouterr().err.startswith(f"--output: {tmp_path}/run-compare cannot be made")


@pytest.mark.parametrize("inside", [".", "figures"])
def test_restart_does_not_move_the_working_folder(
    inside, empty_config, tmp_path, capsys, monkeypatch
):
    run = tmp_path / "run"
    (run / "figures").mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(small_config()))
    monkeypatch.chdir(run / inside)
    command = ["train", str(empty_config), "--restart", *flags()]
    assert cli.main([*command, "--run-dir", os.path.relpath(run)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"--run-dir: {os.path.relpath(run)} holds the working folder")
    assert sorted(os.listdir(tmp_path)) == ["run", "small.yaml"]


@pytest.mark.parametrize(
    ("flag", "value"), [("model.num_classes", "2147483647"), ("model.hidden", "[2147483647]")]
)
def test_a_model_larger_than_the_memory_is_refused(flag, value, empty_config, tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["train", str(empty_config), "--run-dir", str(run), f"--{flag}", value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"--{flag}: its parameters, ") and "this machine has" in line
    assert not run.exists()
