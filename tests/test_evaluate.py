"""The command that evaluates a run: what it finds, draws and refuses."""

import json
import shutil

import jax
import pytest
from runs import flags

from gs_modules.train import cli

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]

SMALL = flags(
    training__steps=30,
    training__evaluate_every=10,
    training__checkpoint_every=10,
    training__evaluation_samples=10,
)


def trained(folder, *words):
    config = folder / "small.yaml"
    config.write_text("")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        run = ["--run-dir", str(folder / "run")]
        assert cli.main(["train", str(config), *run, *SMALL, *words]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "framework",
    ["nnx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("linen", "haiku"))],
)
def test_a_finished_run_is_evaluated(framework, request, tmp_path, capsys):
    fixture = framework == "nnx"
    run = request.getfixturevalue("run") if fixture else trained(tmp_path, "--framework", framework)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert cli.main(["evaluate", str(run), "--samples", "50"]) == 0
    said = capsys.readouterr().out
    found = json.loads((run / "evaluation.json").read_text())["test"]
    summary = json.loads((run / "summary.json").read_text())
    assert (found["samples"], found["images"], found["step"]) == (50, 360, summary["step"])
    assert found["parameters_sha256"] == summary["parameters_sha256"]
    assert found["neg_importance_weighted"] < found["neg_elbo"]
    # Other samples of the same bound, 10 in the run: 360 images leave little noise.
    assert found["neg_elbo"] == pytest.approx(summary["test"]["neg_elbo"], abs=0.3)
    assert found["kl"] == pytest.approx(summary["test"]["kl"], rel=1e-5)
    for key in ("neg_importance_weighted", "neg_elbo", "reconstruction", "kl"):
        assert f"{found[key]:.3f}" in said
    bounds = summary.pop("importance_weighted")
    expected = {key: found[key] for key in ("neg_importance_weighted", "samples")}
    assert bounds == {"test": expected}
    assert summary == json.loads(before[run / "summary.json"])
    pictures = {path.name for path in (run / "figures" / "evaluate_test").iterdir()}
    assert pictures == {"reconstructions.png", "code_usage.png"}
    changed = {run / "summary.json", run / "report.html"}
    assert all(path.read_bytes() == old for path, old in before.items() if path not in changed)

    with_another = ["evaluate", str(run), "--samples", "50", "--split", "validation"]
    assert cli.main(with_another) == 0
    both = json.loads((run / "evaluation.json").read_text())
    assert both == {"test": found, "validation": {**both["validation"], "images": 237}}
    bounds = json.loads((run / "summary.json").read_text())["importance_weighted"]
    assert bounds == {"test": expected, "validation": {**bounds["validation"], "samples": 50}}


def test_an_unfinished_run_is_evaluated_where_it_is(run, capsys):
    (run / "summary.json").unlink()
    (run / "checkpoints" / "30" / "SHA256SUMS").write_text("")
    assert cli.main(["evaluate", str(run), "--samples", "5"]) == 0
    said = capsys.readouterr().out
    assert "; an older step is evaluated\n" in said
    assert "unfinished: the checkpoint of step 20 of 30, parameters of step 20\n" in said
    assert json.loads((run / "evaluation.json").read_text())["test"]["step"] == 20
    assert not (run / "summary.json").exists()


def nothing_saved(run):
    (run / "summary.json").unlink()
    shutil.rmtree(run / "checkpoints")


def another_summary(run):
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "parameters_sha256": "0" * 64}))


def damaged_config(run):
    (run / "config.yaml").write_text("model: {hidden: no}\n")


def no_images(run):
    text = (run / "config.yaml").read_text().replace("name: digits", "name: mnist")
    (run / "config.yaml").write_text(text.replace("root: null", f"root: {run}"))


def no_validation(run):
    text = (run / "config.yaml").read_text().replace("validation: null", "validation: 0")
    (run / "config.yaml").write_text(text)


@pytest.mark.parametrize(
    ("damage", "words", "exit_code", "reason"),
    [
        (shutil.rmtree, [], 2, "expected the folder of a run, which holds a config.yaml"),
        (nothing_saved, [], 2, "nothing is saved yet"),
        (another_summary, [], 2, "damaged: holds other parameters than summary.json says"),
        (lambda run: (run / "summary.json").write_text("{"), [], 2, "damaged: not a JSON object"),
        (lambda run: (run / "evaluation.json").write_text("[]"), [], 2, "not a JSON object"),
        (lambda run: (run / "evaluation.json").write_text('{"a": 1}'), [], 2, "damaged: expected"),
        (damaged_config, [], 2, "config.yaml:1: model.hidden: expected a list, got 'no'"),
        (no_images, [], 3, "train-images-idx3-ubyte.gz"),
        (no_validation, ["--split", "validation"], 2, "run keeps no validation images"),
        (lambda run: None, ["--split", "tests"], 2, "invalid choice: 'tests'"),
        (lambda run: None, ["--samples", "0"], 2, "--samples: expected a positive integer"),
        (lambda run: None, ["--samples", "2000000000"], 2, "--samples: at most 5965232 for 360"),
        (lambda run: None, ["--seed", "1"], 2, "unknown flag --seed: evaluate takes the config"),
        (lambda run: None, ["--sample", "1"], 2, "did you mean --samples?"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(damage, words, exit_code, reason, run, capsys):
    damage(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    capsys.readouterr()
    try:
        code = cli.main(["evaluate", str(run), *words])
    except SystemExit as stopped:  # argparse says how it is used, too
        code = stopped.code
    error = capsys.readouterr().err.splitlines()
    assert code == exit_code and reason in error[-1]
    assert len(error) == 1 or error[0].startswith("usage: gs-modules evaluate")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
