"""The command, the loop and the bound: real runs on digits, small and short."""

import errno
import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console
from runs import COMMAND, FRAMEWORKS, build_trainer, flags, records_of, small_config, without_speed

from gs_modules import Usage
from gs_modules.train import bound, cli, data, models
from gs_modules.train.config import print_config, to_yaml
from gs_modules.train.config_file import ConfigError, load
from gs_modules.train.figures import curves, write_figures
from gs_modules.train.folder import write_whole
from gs_modules.train.loop import Trainer
from gs_modules.train.pictures import take
from gs_modules.train.run_directory import RunDirectory, parameters_sha256
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


@pytest.fixture(scope="module")
def unbroken_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken") / "run"
    subprocess.run(long_command(run), check=True, capture_output=True)
    return run


def long_command(run):
    config = run.parent / "small.yaml"
    config.write_text("")
    options = flags(training__steps=1000, training__checkpoint_every=1000)
    return [*COMMAND, "train", str(config), "--run-dir", str(run), *options]


stopping_signals = pytest.mark.parametrize(
    ("number", "exit_code"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)],
)
INTERRUPTED = "interrupted; the same command continues from what was saved\n"


@stopping_signals
def test_a_process_stopped_by_a_signal_saves_and_continues(
    number, exit_code, unbroken_run, tmp_path
):
    run = tmp_path / "run"
    with subprocess.Popen(long_command(run), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "step 20 " not in (line := process.stdout.readline()):
            assert line, "the process ended before its first chunk"
        process.send_signal(number)
        began = time.monotonic()
        process.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert process.returncode == exit_code
    assert not (run / "summary.json").exists()
    step = records_of(run)[-1]["step"]
    assert 0 < step < 1000
    output = subprocess.run(long_command(run), check=True, capture_output=True, text=True).stdout
    assert f"continuing from step {step}" in output
    assert without_speed(records_of(run)) == without_speed(records_of(unbroken_run))
    ours, theirs = (json.loads((r / "summary.json").read_text()) for r in (run, unbroken_run))
    assert ours["parameters_sha256"] == theirs["parameters_sha256"]


def started(command):
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition, process):
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


@stopping_signals
def test_a_second_signal_stops_at_once_even_a_compilation(number, exit_code, tmp_path):
    run = tmp_path / "run"
    with started(long_command(run)) as process:
        wait_until((run / "metrics.jsonl").exists, process)  # made right before compiling
        process.send_signal(number)
        assert process.stdout is not None
        said = process.stdout.readline()
        process.send_signal(number)
        rest, errors = process.communicate(timeout=60)
    assert said == "stopping after this chunk; once more stops now\n"
    assert (process.returncode, rest, errors) == (exit_code, "", INTERRUPTED)


@pytest.mark.slow
@stopping_signals
def test_a_signal_while_a_run_is_finished_stops_it_and_it_is_finished_again(
    number, exit_code, unbroken_run, tmp_path
):
    run = tmp_path / "run"
    metrics = run / "metrics.jsonl"
    with started(long_command(run)) as process:
        wait_until(lambda: metrics.exists() and '"test"' in metrics.read_text(), process)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (exit_code, INTERRUPTED)
    assert not (run / "summary.json").exists()
    subprocess.run(long_command(run), check=True, capture_output=True)
    assert without_speed(records_of(run)) == without_speed(records_of(unbroken_run))
    assert len(list((run / "figures").glob("*.png"))) == 4


@stopping_signals
def test_a_signal_while_the_command_imports_is_one_line(number, exit_code):
    command = [COMMAND[0], "-X", "importtime", *COMMAND[1:], "train", "--help"]
    with started(command) as process:
        assert process.stderr is not None
        while not re.search(r"\bjax\.", line := process.stderr.readline()):
            assert line, "the process ended before it imported JAX"
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    said = [line for line in errors.splitlines() if not line.startswith("import time:")]
    assert (process.returncode, output) == (exit_code, "")
    assert said == ["interrupted before the command began"]


def test_the_process_ends_with_the_command_whatever_threads_are_left(empty_config):
    left = "import threading; threading.Thread(target=threading.Event().wait).start(); "
    command = [*COMMAND[:2], left + COMMAND[2], "train", str(empty_config), "--print-config"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, print_config(load(None)), "")


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


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_run_compiles_its_step_once(framework, compilations):
    trainer = build_trainer(framework=framework, training__steps=110)
    traced = []

    def forward(*arguments):
        traced.append(arguments)
        return trainer.model.forward(*arguments)

    model = models.Model(**{**vars(trainer.model), "forward": forward})
    counted = Trainer(trainer.config, trainer.data, model)
    temperatures = []
    for _, records in counted.run(counted.init()):
        if records:
            assert (compilations() > 0) == (not temperatures)
            temperatures.append(records[0]["temperature"])
    assert len(traced) == 1
    assert len(temperatures) == 6 and len(set(temperatures)) > 2


def test_every_epoch_is_a_permutation_and_depends_on_the_step_alone():
    trainer = build_trainer(training__evaluate_every=30, training__checkpoint_every=30)
    per_epoch = 12  # 1,200 training images in batches of 100
    rows = trainer.batches(0, 30)
    for epoch in range(2):
        seen = np.sort(rows[epoch * per_epoch : (epoch + 1) * per_epoch].ravel())
        assert np.array_equal(seen, np.arange(1200))
    assert not np.array_equal(rows[:per_epoch], rows[per_epoch : 2 * per_epoch])
    pieces = [trainer.batches(a, b)[: b - a] for a, b in itertools.pairwise((0, 7, 12, 13, 30))]
    assert np.array_equal(np.concatenate(pieces), rows)


def test_an_evaluation_that_is_never_due_costs_no_memory():
    never = {"training__evaluate_every": 2**31 - 1, "training__checkpoint_every": 2**31 - 1}
    runs = [
        build_trainer(**never),
        build_trainer(training__evaluate_every=50, training__checkpoint_every=50),
    ]
    ends = []
    for trainer in runs:
        *_, (snapshot, records) = trainer.run(trainer.init())
        ends.append((parameters_sha256(snapshot), without_speed(records)))
    assert ends[0] == ends[1] and ends[0][1]


def dense_layers(framework, params):
    """Weights and biases of encoder and decoder, in order."""
    for part in ("encoder", "decoder"):
        for layer in range(2):
            if framework == "nnx":
                found = params[part]["layers"][layer]
                yield found, "kernel", "bias"
            elif framework == "linen":
                yield params[part][f"Dense_{layer}"], "kernel", "bias"
            else:
                suffix = f"_{layer}" if layer else ""
                yield params[f"vae/~/{part}/~/linear{suffix}"], "w", "b"


def test_the_three_frameworks_are_one_model():
    x = jnp.asarray(data.load("digits").test[:5], jnp.float32)
    codes = jax.nn.one_hot(jnp.arange(15).reshape(5, 3) % 4, 4)
    generator = np.random.default_rng(0)
    weights = [generator.normal(size=shape) for shape in ((64, 16), (16, 12), (12, 16), (16, 64))]
    outputs = []
    for framework in FRAMEWORKS:
        trainer = build_trainer(framework=framework)
        params = trainer.model.init(jax.random.key(0))
        for weight, (layer, kernel, bias) in zip(
            weights, dense_layers(framework, params), strict=True
        ):
            assert layer[kernel].shape == weight.shape
            limit = weight.shape[0] ** -0.5
            assert 0.8 * limit < jnp.abs(layer[kernel]).max() <= limit
            layer[kernel] = jnp.asarray(weight, jnp.float32)
            layer[bias] = jnp.full_like(layer[bias], 0.1)
        latent = trainer.model.encode(params, x)
        outputs.append((latent.logits, latent.kl, trainer.model.decode(params, codes)))
        hidden = np.maximum(np.asarray(x) @ weights[0] + 0.1, 0)
        np.testing.assert_allclose(
            latent.logits.reshape(5, 12), hidden @ weights[1] + 0.1, rtol=2e-5, atol=2e-5
        )
    for output in outputs[1:]:
        jax.tree.map(np.testing.assert_array_equal, output, outputs[0])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_training_noise_follows_the_key_and_temperature_the_step(framework):
    trainer = build_trainer(framework=framework, estimator__kind="pathwise")
    params = trainer.model.init(jax.random.key(0))
    x = jnp.asarray(trainer.images[:4], jnp.float32)
    forward = jax.jit(trainer.model.forward)
    _, first = forward(params, x, jax.random.key(1), 0)
    _, same = forward(params, x, jax.random.key(1), 0)
    _, other_key = forward(params, x, jax.random.key(2), 0)
    _, later = forward(params, x, jax.random.key(1), 50)
    assert np.array_equal(first.sample, same.sample)
    assert not np.array_equal(first.index, other_key.index)
    assert (float(first.temperature), float(later.temperature)) == (1.0, 0.5)
    assert np.array_equal(first.index, later.index) and later.sample.max() > first.sample.max()


def test_the_bound_is_the_enumerated_one_and_ignores_padding(monkeypatch):
    """Two latents of three classes: nine codes, so that the expectation is a short sum."""
    generator = np.random.default_rng(0)
    encoder = generator.normal(size=(5, 6))
    decoder = generator.normal(size=(6, 5))
    prior = generator.normal(size=(2, 3))

    def encode(params, x):
        from gs_modules import latent_output

        logits = (x @ jnp.asarray(encoder, jnp.float32)).reshape(-1, 2, 3)
        return latent_output(jnp.zeros_like(logits), logits, jnp.asarray(prior, jnp.float32), None)

    model = models.Model(
        init=lambda key: {},
        forward=lambda *_: pytest.fail("evaluation does not train"),
        encode=encode,
        decode=lambda params, sample: sample.reshape(-1, 6) @ jnp.asarray(decoder, jnp.float32),
        prior_logits=lambda params: jnp.asarray(prior, jnp.float32),
    )
    images = generator.integers(0, 2, (7, 5), np.uint8)
    logits = (images @ encoder).reshape(7, 2, 3)
    q = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    p = np.exp(prior) / np.exp(prior).sum(-1, keepdims=True)
    kl = (q * np.log(q / p)).sum((-1, -2))
    mean, square = np.zeros(7), np.zeros(7)
    for a, b in itertools.product(range(3), repeat=2):
        pixel_logits = decoder[a] + decoder[3 + b]
        cost = (np.logaddexp(0, pixel_logits) - images * pixel_logits).sum(-1)
        mean += q[:, 0, a] * q[:, 1, b] * cost
        square += q[:, 0, a] * q[:, 1, b] * cost**2
    samples = 4000
    standard_error = np.sqrt((square - mean**2).sum() / samples) / 7
    monkeypatch.setattr(bound, "EVALUATION_BATCH", 3)
    totals = bound.evaluate(model, {}, jnp.asarray(images), 1.0, jax.random.key(0), samples)
    assert float(totals.count) == 7 * samples
    measured = totals.metrics()
    assert measured["kl"] == pytest.approx(kl.mean(), rel=1e-4)
    # 5.3 standard errors: a false alarm in 1e7 runs.
    assert abs(measured["reconstruction"] - mean.mean()) < 5.3 * standard_error + 1e-4
    assert int(totals.usage.counts.sum()) == 2 * 7 * samples


def test_totals_of_batches_add_up_to_those_of_the_whole():
    usage = Usage(jnp.ones((2, 3), jnp.int32))
    one = bound.Totals(jnp.float32(2), jnp.float32(10), jnp.float32(4), usage)
    both = (one + one).metrics()
    assert both["neg_elbo"] == 7 and both["reconstruction"] == 5 and both["kl"] == 2
    assert both["perplexity"] == pytest.approx(3) and both["codes_used"] == 6


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


@pytest.mark.parametrize(
    ("flag", "value"), [("model.num_classes", "2147483647"), ("model.hidden", "[2147483647]")]
)
def test_a_model_larger_than_the_memory_is_refused(flag, value, empty_config, tmp_path, capsys):
    run = tmp_path / "run"
    assert cli.main(["train", str(empty_config), "--run-dir", str(run), f"--{flag}", value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"--{flag}: its parameters, ") and "this machine has" in line
    assert not run.exists()


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
