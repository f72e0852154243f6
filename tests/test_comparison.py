"""What a comparison of estimators says, and the command that makes it."""

import io
import itertools
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from runs import build_trainer, flags

from gs_modules.train import cli
from gs_modules.train.bound import reconstruction
from gs_modules.train.checkpoint import Checkpoints
from gs_modules.train.compare import blocks
from gs_modules.train.compare.measurements import Comparison, Measurement, Refusal
from gs_modules.train.compare.report import as_json, draw, table, verdict
from gs_modules.train.compare.truth import Truth, true_gradient
from gs_modules.train.run_directory import parameters_sha256

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]


def row(name, temperature, bias, error, variance):
    return Measurement(name, temperature, bias, error, variance, 0.0, 0.9, 0.5, 1234e-6)


MADE = Comparison(
    Truth(np.full((blocks.BLOCKS, 1, 4), 0.5), "leave_one_out", 1000),
    samples=64,
    measurements=(
        row("straight_through_gumbel", 1.0, 0.3, 0.02, 2.0),
        row("straight_through_gumbel", 0.1, 0.0, 0.1, 40.0),
        row("argmax", 1.0, 0.7, 0.0, 0.0),
        row("noisy", 1.0, 0.1, 0.3, 90.0),
        row("reinmax", 1.0, 0.05, 0.02, 3.0),
    ),
    refusals=(
        Refusal("reinmax", 0.1, "temperature must be at least 1, got 0.1"),
        Refusal("reinmax", 0.5, "temperature must be at least 1, got 0.5"),
    ),
)


def test_the_table_fits_eighty_columns_and_shows_what_is_not_available():
    console = Console(file=io.StringIO(), width=80)
    console.print(table(MADE))
    lines = console.file.getvalue().splitlines()
    assert not any("…" in line for line in lines)
    cells = [line.split() for line in lines]
    assert ["reinmax", "0.1", *["n/a"] * 6] in cells
    gumbel = ["1", "0.30", "±", "0.02", "2", "2.09", "0.900", "0.500", "1234"]
    assert ["straight_through_gumbel", *gumbel] in cells


def test_the_answer_in_words_counts_noise_against_a_small_bias():
    assert verdict(MADE, 50) == [
        "n/a: reinmax at temperature 0.1, 0.5: temperature must be at least 1, got 0.1",
        "smallest error of one gradient: argmax at temperature 1 (0.49); of the mean of 50 "
        "(training.batch_size): reinmax at temperature 1 (0.0625)",
        "smallest bias: reinmax at temperature 1 (0.05 ± 0.02, not told from 0); not told from it: "
        "straight_through_gumbel at temperature 0.1, noisy at temperature 1",
    ]


def test_the_figure_has_a_panel_for_each_measure_with_units():
    panels = draw(MADE, "made up").axes
    assert len(panels) == 6
    assert [panel.get_xlabel() for panel in panels] == ["temperature"] * 5 + ["µs"]
    assert all(panel.get_title() for panel in panels)
    assert "argmax" in panels[1].get_title()  # its variance is 0, which a log scale does not show


TINY = flags(training__steps=20)
FEW = [
    "--estimators",
    "argmax,straight_through",
    "--temperatures",
    "0.5,1",
    "--samples",
    "64",
    "--images",
    "3",
]


def test_the_command_prints_draws_and_answers(empty_config, tmp_path, capsys):
    assert cli.main(["compare", str(empty_config), *TINY, *FEW]) == 0
    printed = capsys.readouterr().out
    assert "3 training images, 3 latents of 4 classes; parameters initial, of seed 0" in printed
    assert "exact, by enumeration of 64 outcomes" in printed
    assert "smallest error of one gradient: " in printed and "smallest bias: " in printed
    folder = tmp_path / "runs" / "small-compare"
    assert {path.name for path in folder.iterdir()} == {"compare.png", "compare.json"}
    assert (folder / "compare.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((folder / "compare.json").read_text(), parse_constant=pytest.fail)
    rows = [(one["estimator"], one["temperature"]) for one in written["measurements"]]
    assert rows == list(itertools.product(["argmax", "straight_through"], [0.5, 1.0]))
    assert set(written["measurements"][0]) == {
        "estimator",
        "temperature",
        "bias",
        "bias_standard_error",
        "variance",
        "variance_standard_error",
        "error",
        "cosine",
        "sample_cosine",
        "seconds",
    }
    assert written["truth"]["method"] == "enumeration" and written["refusals"] == []


@pytest.mark.slow
def test_parameters_are_those_of_a_run_of_the_same_config(empty_config, tmp_path, capsys):
    run, output = tmp_path / "run", tmp_path / "there"
    where = ["--run-dir", str(run)]
    few = [*FEW[2:], "--estimators", "argmax", "--output", str(output)]
    assert cli.main(["train", str(empty_config), *where, *TINY]) == 0
    capsys.readouterr()
    assert cli.main(["compare", str(empty_config), *where, *TINY, *few]) == 0
    assert f"parameters of step 20 of {run}\n" in capsys.readouterr().out

    trainer = build_trainer(training__steps=20)
    checkpoints = Checkpoints(run / "checkpoints", trainer.config)
    params = checkpoints.restore(trainer.init())[0].best.params
    summary = json.loads((run / "summary.json").read_text())
    assert parameters_sha256(params) == summary["parameters_sha256"]
    x = jnp.asarray(trainer.data.train[:3], jnp.float32)
    encode, decode = trainer.model.encode, trainer.model.decode
    truth = true_gradient(
        jax.random.key(5),
        lambda sample: reconstruction(decode(params, sample), x),
        encode(params, x).logits,
    )
    written = json.loads((output / "compare.json").read_text())
    assert written["truth"]["norm"] == pytest.approx(truth.norm, rel=1e-4)

    assert cli.main(["compare", str(empty_config), *where, *TINY, *few, "--seed", "1"]) == 0
    printed = capsys.readouterr().out
    assert "parameters initial, of seed 1" in printed and "another config: seed: 0 -> 1" in printed
    assert json.loads((output / "compare.json").read_text())["truth"] != written["truth"]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (["--temperatures", "0.5,0"], ["--temperatures", "positive", "'0.5,0'"]),
        (["--temperatures", "warm"], ["--temperatures", "positive", "'warm'"]),
        (["--samples", "0"], ["--samples", "positive integer", "'0'"]),
        (["--truth-samples", "1e5"], ["--truth-samples", "positive integer", "'1e5'"]),
        (["--images", "1201"], ["--images", "1200", "1201"]),
        (["--estimators", "argmax,pathwize"], ["--estimators", "pathwise", "'pathwize'"]),
        (["--sampels", "64"], ["--sampels", "--samples"]),
        (["--temperature", "1"], ["--temperature is a section"]),
        (["--trainnig.steps", "5"], ["--trainnig.steps", "'training'"]),
        (["--temperature.end", "-0.5"], ["--temperature.end", "positive"]),
        (["--data.name", "mnist", "--data.root", "nowhere"], ["data.root", "nowhere"]),
    ],
)
def test_wrong_flags_are_refused_in_a_line_and_nothing_is_written(
    wrong, named, empty_config, tmp_path, capsys
):
    try:
        code = cli.main(["compare", str(empty_config), *TINY, *wrong])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    *usage, reason = capsys.readouterr().err.splitlines()
    assert len(usage) <= 1 and all(name in reason for name in named)
    assert os.listdir(tmp_path) == ["small.yaml"]


def test_missing_images_are_exit_code_3(empty_config, tmp_path, capsys):
    (tmp_path / "images").mkdir()
    assert (
        cli.main(["compare", str(empty_config), "--data.name", "mnist", "--data.root", "images"])
        == 3
    )
    assert "train-images-idx3-ubyte.gz" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["images", "small.yaml"]


def test_too_few_samples_for_the_truth_are_exit_code_2(empty_config, capsys):
    options = ["--model.num_latents", "12", "--truth-samples", "64", "--images", "1", *FEW[:6]]
    assert cli.main(["compare", str(empty_config), *options]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "--truth-samples" in error


def test_print_config_is_that_of_train(empty_config, capsys):
    printed = []
    for command in ("train", "compare"):
        assert cli.main([command, str(empty_config), *TINY, "--print-config"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and "num_latents: 3" in printed[0]


def test_numbers_of_a_comparison_are_plain_and_finite():
    written = json.loads(json.dumps(as_json(MADE), allow_nan=False))
    assert written["truth"] == {
        "method": "leave_one_out",
        "count": 1000,
        "norm": 1.0,
        "relative_standard_error": 0.0,
    }
    assert written["refusals"][0]["estimator"] == "reinmax" and len(written["measurements"]) == 5
