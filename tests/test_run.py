"""Whole runs of the command `train`: their files, their figures and how they end."""

import errno
import io
import json
import math
import os
import subprocess
from pathlib import Path

import jax
import pytest
from matplotlib.figure import Figure
from rich.console import Console
from runs import FRAMEWORKS, build_trainer, flags, long_command, records_of, small_config

from gs_modules.train import cli
from gs_modules.train.config_file import load
from gs_modules.train.figures import curves, write_figures
from gs_modules.train.folder import write_whole
from gs_modules.train.pictures import take
from gs_modules.train.run_directory import RunDirectory
from gs_modules.train.training import _line, _progress

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]

METRICS = {
    "step",
    "split",
    "neg_elbo",
    "reconstruction",
    "kl",
    "temperature",
    "perplexity",
    "codes_used",
    "steps_per_second",
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_run_leaves_metrics_summary_and_pictures(framework, empty_config, tmp_path, capsys):
    run = tmp_path / "run"
    command = ["train", str(empty_config), "--run-dir", str(run), *flags(framework=framework)]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"pictures: {run / 'figures'}"
    pictures = {"reconstructions.png", "samples.png", "curves.png", "code_usage.png"}
    assert {path.name for path in (run / "figures").iterdir()} == pictures
    records = records_of(run)
    assert [(record["step"], record["split"]) for record in records[:-1]] == [
        (step, split) for step in (20, 40, 50) for split in ("train", "validation")
    ]
    assert records[-1]["split"] == "test"
    for record in records:
        assert set(record) == METRICS
        assert record["neg_elbo"] == pytest.approx(record["reconstruction"] + record["kl"])
        assert 1 <= record["perplexity"] <= 4 and 1 <= record["codes_used"] <= 12
    assert [record["temperature"] for record in records[0:6:2]] == pytest.approx(
        [0.5 + 0.25 * (1 + math.cos(math.pi * step / 50)) for step in (20, 40, 50)], rel=1e-6
    )
    best = min(records[1:6:2], key=lambda record: record["neg_elbo"])
    summary = json.loads((run / "summary.json").read_text())
    assert summary["step"] == best["step"] == records[-1]["step"]
    assert summary["test"] == records[-1] and len(summary["parameters_sha256"]) == 64
    # Forty small updates are better than none: chance is 64 log 2 nats.
    assert records[-1]["neg_elbo"] < 64 * math.log(2)

    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert cli.main(command) == 0
    assert "finished already" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    assert cli.main([*command, "--training.batch_size", "51"]) == 2
    error = capsys.readouterr().err
    assert "training.batch_size: 100 -> 51" in error
    assert "--run-dir" in error and "--restart" in error
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before

    (run / "summary.json").write_text("")
    assert cli.main(command) == 2
    assert f"{run / 'summary.json'}: damaged" in capsys.readouterr().err


def test_a_run_is_a_function_of_its_config_whatever_jax_is_told(empty_config, tmp_path):
    def summary(name):
        run = tmp_path / name
        assert cli.main(["train", str(empty_config), "--run-dir", str(run), *flags()]) == 0
        return json.loads((run / "summary.json").read_text())

    expected = summary("as_ever")
    with jax.default_prng_impl("rbg"):
        found = summary("with_other_keys")
    assert found["parameters_sha256"] == expected["parameters_sha256"]
    with jax.enable_x64(True):
        wide = summary("with_wide_numbers")
    assert wide["test"]["neg_elbo"] == pytest.approx(expected["test"]["neg_elbo"], rel=0.05)


def test_a_full_disk_is_one_line_and_exit_code_1(tmp_path):
    run = tmp_path / "run"
    command = long_command(run)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
    command[2] = limit + command[2]
    command += ["--model.hidden", "[512]", "--training.checkpoint_every", "20"]
    # What JAX keeps of compilations would not fit either.
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    reason = f"step 20 cannot be saved: {os.strerror(errno.EFBIG)}"
    assert (done.returncode, done.stderr) == (1, f"{run / 'checkpoints'}: {reason}\n")


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    run = RunDirectory(tmp_path)
    for file in ("metrics.jsonl", f"summary.json.{os.getpid()}.part"):
        (tmp_path / file).symlink_to("/dev/full")
    for write in (lambda: run.append([{"step": 20}]), lambda: write_whole(run.summary, b"{}")):
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as refused:
            write()
        assert refused.value.filename in (str(run.metrics), str(run.summary))


def test_a_picture_is_whole_or_not_there(tmp_path, monkeypatch):
    def half(figure, target, **options):
        if isinstance(target, Path):
            target.write_bytes(b"half a picture")
        raise OSError("no space left")

    trainer = build_trainer()
    monkeypatch.setattr(Figure, "savefig", half)
    pictures = take(trainer, trainer.init().best.params)
    records = [{"split": "train", "step": 20, "neg_elbo": 30.0, "temperature": 1.0}]
    with pytest.raises(OSError, match="no space"):
        write_figures(tmp_path, pictures, records)
    assert list(tmp_path.iterdir()) == []


def test_a_narrow_terminal_shows_all_steps():
    records = [{"split": "train", "neg_elbo": 125.42, "temperature": 0.96, "steps_per_second": 384}]
    records.append({**records[0], "split": "validation"})
    screen = io.StringIO()
    with _progress(Console(file=screen, force_terminal=True, width=80)) as progress:
        progress.add_task("", total=12000, completed=11000, shown=_line(records))
    assert (
        "11000/12000  train 125.42  validation 125.42 nats  temperature 0.960" in screen.getvalue()
    )


def test_the_legend_names_the_curves_that_there_are():
    record = {"split": "train", "step": 20, "neg_elbo": 30.0, "temperature": 1.0}
    for splits in (["train", "test"], ["train", "validation", "test"]):
        figure = curves([{**record, "split": split} for split in splits])
        assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == splits


def test_missing_images_are_exit_code_3_and_write_nothing(empty_config, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    flags = ["--data.name", "mnist", "--data.root", str(tmp_path / "images")]
    run = tmp_path / "run"
    assert cli.main(["train", str(empty_config), "--run-dir", str(run), *flags]) == 3
    assert "train-images-idx3-ubyte.gz" in capsys.readouterr().err
    assert not run.exists()


def test_a_loss_that_explodes_is_exit_code_4_and_is_never_saved(empty_config, tmp_path, capsys):
    run = tmp_path / "run"
    options = flags(optimizer__learning_rate="1e30")
    assert cli.main(["train", str(empty_config), "--run-dir", str(run), *options]) == 4
    assert "loss became" in capsys.readouterr().err
    assert not (run / "summary.json").exists() and records_of(run) == []


def test_print_config_is_yaml_with_temperatures_and_stops(empty_config, tmp_path, capsys):
    assert cli.main(["train", str(empty_config), *flags(), "--print-config"]) == 0
    printed = capsys.readouterr().out
    again = tmp_path / "again.yaml"
    again.write_text(printed)
    assert load(again) == small_config()
    assert (
        "# temperature at step 0: 1\n" in printed and "# temperature at step 50: 0.5\n" in printed
    )
    assert os.listdir(tmp_path) == ["again.yaml", "small.yaml"] or len(os.listdir(tmp_path)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_digits_reach_the_figure_of_the_readme(framework, tmp_path):
    run = tmp_path / "run"
    config = Path(__file__).parent.parent / "configs" / "digits.yaml"
    command = ["train", str(config), "--run-dir", str(run), "--framework", framework]
    assert cli.main(command) == 0
    assert json.loads((run / "summary.json").read_text())["test"]["neg_elbo"] <= 17.8


@pytest.mark.slow
@pytest.mark.skipif("GS_MODULES_DATA" not in os.environ, reason="needs MNIST in GS_MODULES_DATA")
def test_mnist_reaches_the_figure_of_the_readme(tmp_path):
    run = tmp_path / "run"
    config = Path(__file__).parent.parent / "configs" / "mnist.yaml"
    root = str(Path(os.environ["GS_MODULES_DATA"]) / "mnist")
    assert cli.main(["train", str(config), "--run-dir", str(run), "--data.root", root]) == 0
    epoch_20 = records_of(run)[-2]
    assert epoch_20["step"] == 20 * 600 and epoch_20["split"] == "train"
    assert epoch_20["neg_elbo"] <= 134.5
