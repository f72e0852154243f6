"""What is refused of flags, and of what belongs together: estimators, schedules and data."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

from configs import CONFIGS, FALLS, HAS, given, refusals
from gs_modules import SCHEDULES
from gs_modules.train.config_file import ConfigError, load
from gs_modules.train.data import DATASETS

pytestmark = pytest.mark.command

IDX = "train-images-idx3-ubyte.gz, t10k-images-idx3-ubyte.gz; they come from "
FILES = {
    "mnist": IDX + "Yann LeCun's MNIST (yann.lecun.com/exdb/mnist), the four IDX .gz files",
    "fashion_mnist": IDX + "Zalando Research's Fashion-MNIST "
    "(github.com/zalandoresearch/fashion-mnist), the four IDX .gz files",
    "static_mnist": "binarized_mnist_train.amat, binarized_mnist_valid.amat, "
    "binarized_mnist_test.amat; they come from Hugo Larochelle's fixed binarisation of MNIST "
    "(www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist), three .amat files or one .npz",
}
COSINE = "temperature:\n  kind: exponential\n  start: 0.9\n  rate: 1e-3\n  every: 5\n"
REINMAX = (
    "temperature of ReinMax must be at least 1, got {}; for a smaller one use StraightThrough or "
    "GappedStraightThrough; temperature.kind {} reaches it at step {} of training.steps {}"
)


@pytest.mark.parametrize(
    ("text", "flags", "place", "reached"),
    [
        (
            "\nestimator: {kind: reinmax}",
            [],
            "c.yaml:2: estimator.kind",
            (0.5, "exponential", 8999, 9000),
        ),
        ("", [("estimator.kind", "reinmax")], "--estimator.kind", (0.5, "exponential", 8999, 9000)),
        (
            "estimator: {kind: reinmax}",
            [("temperature.kind", "linear"), ("temperature.steps", "2"), ("training.steps", "2")],
            "--temperature.kind",
            (0.75, "linear", 1, 2),
        ),
        (
            "estimator: {kind: reinmax}\ntemperature: {kind: linear, start: 0.25, end: 2}",
            [],
            "c.yaml:1: estimator.kind",
            (0.25, "linear", 0, 9000),
        ),
        (
            "estimator: {kind: reinmax}\ntemperature: {kind: constant}",
            [("temperature.value", "0.75")],
            "--temperature.value",
            (0.75, "constant", 0, 9000),
        ),
        (
            "estimator: {kind: reinmax}\ntemperature: {kind: piecewise, values: [1, 0.5, 2]}",
            [("temperature.boundaries", "[8, 8998]")],
            "--temperature.boundaries",
            (0.5, "piecewise", 8, 9000),
        ),
        (
            "estimator: {kind: reinmax}\ntemperature: {kind: cyclic, period: 9000, end: 0.5}",
            [],
            "c.yaml:1: estimator.kind",
            (0.5, "cyclic", 8999, 9000),
        ),
    ],
)
def test_an_estimator_is_refused_where_a_temperature_of_the_run_is(
    file, text, flags, place, reached
):
    assert refusals(file, text, *flags) == [f"{place}: {REINMAX.format(*reached)}"]


@pytest.mark.parametrize(
    "temperature",
    [
        "{kind: constant}",
        "{kind: linear, start: 2, end: 1}",
        "{kind: cosine, start: 2, end: 1, steps: 100}",
        "{kind: exponential, start: 1.5, end: 0.5, rate: 4e-5}",  # 1.046 at the last step
        "{kind: piecewise, values: [1, 0.5], boundaries: [9000]}",
        "{kind: cyclic, start: 2, end: 1}",
        "{kind: cyclic, start: 3, end: 0.9, period: 10000}",
    ],
)
def test_an_estimator_is_accepted_where_every_temperature_of_the_run_is(file, temperature):
    config = given(file, f"estimator: {{kind: reinmax}}\ntemperature: {temperature}")
    steps = np.arange(config.training.steps)
    assert np.min(jax.vmap(config.temperature.build())(steps)) >= 1


def test_flags_win_and_a_new_kind_drops_what_was_of_the_old_one(file):
    flags = [
        ("temperature.end", "0.3"),
        ("temperature.kind", "cosine"),
        ("seed", "1"),
        ("seed", "7"),
    ]
    config = given(file, COSINE, *flags, ("model.hidden", "[64,32]"), ("framework", "linen"))
    expected = {"kind": "cosine", "start": 0.9, "end": 0.3, "steps": 9000}
    assert config.temperature.model_dump() == expected
    assert (config.seed, config.model.hidden, config.framework) == (7, (64, 32), "linen")
    assert load(None, [("temperature.end", "0.3")]).temperature.build() == SCHEDULES["exponential"](
        1.0, 0.3, 2e-4
    )


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        (
            "",
            [("temprature.end", "1")],
            ["--temprature.end: unknown key 'temprature'; did you mean 'temperature'?"],
        ),
        (
            "",
            [("temperature.ned", "1")],
            ["--temperature.ned: unknown key 'ned'; did you mean 'end'?"],
        ),
        ("", [("sead", "1")], ["--sead: unknown key 'sead'; did you mean 'seed'?"]),
        ("", [("a.b.c", "1")], [f"--a.b.c: unknown key 'a'; {HAS}"]),
        ("", [("temperature", "1")], ["--temperature: expected keys and values, got 1"]),
        (
            COSINE,
            [("temperature.kind", "cosine"), ("temperature.rate", "1")],
            ["--temperature.rate: unknown key 'rate'; cosine has kind, start, end, steps"],
        ),
        (
            COSINE + "  evry: 1\n",
            [("temperature.kind", "cosine")],
            ["c.yaml:6: temperature.evry: unknown key 'evry'; cosine has kind, start, end, steps"],
        ),
        (
            COSINE + "  period: 1\n",
            [("temperature.kind", "exponential")],
            [
                "c.yaml:6: temperature.period: unknown key 'period'; exponential has kind, start, "
                "end, rate, every"
            ],
        ),
        (
            COSINE,
            [("temperature.kind", "cosin"), ("seed", "x")],
            [
                "--temperature.kind: unknown kind 'cosin'; did you mean 'cosine'?",
                "--seed: expected an integer, got 'x'",
            ],
        ),
        (
            "temperature: {start: 0.3}",
            [("temperature.end", "0.4")],
            [f"--temperature.end: {FALLS}"],
        ),
        (
            "",
            [("model.hidden", "[1, a]")],
            ["--model.hidden: model.hidden[1]: expected an integer, got 'a'"],
        ),
        (
            "model:\n  hidden: [0]\nseed: -1",
            [("model.hidden", "[1, 2")],
            [
                "c.yaml:3: seed: must be at least 0, got -1",
                "--model.hidden: while parsing a flow sequence: expected ',' or ']', but got "
                "'<stream end>'",
                "--model.hidden: model.hidden[0]: must be at least 1, got 0",
            ],
        ),
        (
            "",
            [("seed", "&a 1")],
            ["--seed: anchors (&) and aliases (*) are not allowed; write the value out"],
        ),
        ("", [("seed", "!!int 1")], ["--seed: tags (!) are not allowed; write the plain value"]),
        ("", [("seed", "1\n---\n2")], ["--seed: several documents, expected one"]),
        (
            "model: 5",
            [("model.num_latents", "3")],
            ["c.yaml:1: model: expected keys and values, got 5"],
        ),
        (
            "",
            [("data.name", "mnist")],
            [
                "--data.name: data.root: missing; mnist is read from a folder that holds "
                f"{FILES['mnist']}"
            ],
        ),
    ],
)
def test_faults_of_flags(file, text, flags, expected):
    assert refusals(file, text, *flags) == expected


@pytest.mark.parametrize("name", sorted(DATASETS.keys() - {"digits"}))
def test_a_data_set_of_files_needs_a_folder(file, tmp_path, name):
    text = f"seed: -1\ndata:\n  name: {name}\n"
    seed = "c.yaml:1: seed: must be at least 0, got -1"
    missing = f"missing; {name} is read from a folder that holds {FILES[name]}"
    assert refusals(file, text) == [seed, f"c.yaml:2: data.root: {missing}"]
    text += "  root: here\n"
    no_folder = f"{tmp_path / 'here'} is not a folder; it must hold {FILES[name]}"
    assert refusals(file, text) == [seed, f"c.yaml:4: data.root: {no_folder}"]
    Path("here").write_text("a file is no folder")
    assert refusals(file, text) == [seed, f"c.yaml:4: data.root: {no_folder}"]
    Path("here").unlink()
    Path("here").mkdir()
    assert given(file, text, ("seed", "0")).data.root == "here"
    assert load(None, [("data.name", name)], check_root=False).data.name == name


@pytest.mark.parametrize("name", sorted(DATASETS.keys() - {"digits"}))
def test_a_shipped_config_without_its_data_says_what_to_fetch(file, tmp_path, name):
    del file  # for its empty folder
    with pytest.raises(ConfigError) as refused:
        load(CONFIGS / f"{name}.yaml")
    root = load(CONFIGS / f"{name}.yaml", check_root=False).data.root
    (fault,) = refused.value.lines
    assert re.match(rf"\S+{name}.yaml:\d+: data.root: {tmp_path / root} is not a folder; ", fault)
    assert fault.endswith(FILES[name])
