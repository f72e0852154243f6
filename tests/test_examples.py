"""Every example runs, in this process and for a few steps, and prints what it promises."""

import math
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.svm import SVC

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]

ROOT = Path(__file__).parent.parent
QUICKSTARTS = sorted((ROOT / "examples").glob("quickstart_*.py"))
STEPS = 60


@pytest.fixture
def printed(capsys, monkeypatch):
    def run(path, *arguments):
        monkeypatch.setattr(sys, "argv", [path.name, *arguments])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_every_example_is_tested_here():
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    others = {"categorical_vae.py", "feature_selection.py", "select_module.py"}
    assert names == {*others, *(path.name for path in QUICKSTARTS)}


def test_the_categorical_vae_trains(printed):
    pattern = r"epoch +(\d+)  temperature (\S+)  .*: train (\S+), test (\S+)"
    found = re.findall(pattern, printed(ROOT / "examples" / "categorical_vae.py", "--epochs", "3"))
    (_, first, *bounds), (epoch, last, *lower) = [map(float, line) for line in found]
    assert epoch == 2
    # Batches of 100 of 1,437 images: 14 steps an epoch.
    assert (first, last) == tuple(round(math.exp(-5e-4 * 14 * n), 3) for n in (1, 3))
    assert all(later < earlier for later, earlier in zip(lower, bounds, strict=True))


def test_a_gate_finds_informative_pixels(printed, tmp_path):
    """Untrained, it keeps the first ten pixels, mostly background: 0.46, less than chance."""
    figure = tmp_path / "figure.png"
    arguments = ["--pixels", "10", "--steps", "200", "--seeds", "1", "--figure", str(figure)]
    output = printed(ROOT / "examples" / "feature_selection.py", *arguments)
    gate, by_information, chance = map(float, re.search(r"\n +10  (.*)", output)[1].split())
    assert gate > chance + 0.1, output
    assert by_information == pytest.approx(accuracy_of_the_most_informative(10), abs=5e-5)
    assert is_a_picture(figure)


def accuracy_of_the_most_informative(count):
    """Mutual information from a table of counts, as the sum of three entropies."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(1797)

    def entropy(table):
        shares = table[table > 0] / table.sum()
        return -(shares * np.log(shares)).sum()

    accuracies = []
    for split in range(5):
        train, test = np.split(np.roll(order, 360 * split), [1437])
        information = []
        for pixel in images[train].T:
            table, *_ = np.histogram2d(pixel, labels[train], (range(18), range(11)))
            information.append(entropy(table.sum(0)) + entropy(table.sum(1)) - entropy(table))
        kept = np.argsort(information)[-count:]
        judge = SVC().fit(images[train][:, kept], labels[train])
        accuracies.append(judge.score(images[test][:, kept], labels[test]))
    return np.mean(accuracies)


def test_a_gate_selects_modules(printed, tmp_path):
    figure = tmp_path / "figure.png"
    arguments = ["--steps", "200", "--figure", str(figure)]
    output = printed(ROOT / "examples" / "select_module.py", *arguments)
    clocks = re.findall(r"step +(\d+)  loss \S+  temperature (\S+)", output)
    assert clocks == [(str(step), f"{math.exp(-1e-3 * step):.3f}") for step in (100, 200)]
    accuracy = {name: float(value) for name, value in re.findall(r"accuracy, (.*): (\S+)", output)}
    assert accuracy["gate"] > accuracy["random"] + 0.1, output  # 0.62 and 0.42
    shares = [float(share) for share in re.findall(r" (0\.\d+)", output.split("by the gate:")[1])]
    assert sum(shares) == pytest.approx(1, abs=2e-3)
    assert min(shares) > 0.05, "without the loss of balance, one module is never chosen"
    assert is_a_picture(figure)


def is_a_picture(path):
    return path.read_bytes().startswith(b"\x89PNG")


def trained(output):
    """Whether the clock of the layer reached the last step, and the loss fell."""
    first, last = [
        tuple(map(float, line))
        for line in re.findall(r"step +(\d+)  loss (\S+)  temperature (\S+)", output)
    ]
    clocks = [(step, round(math.exp(-3e-3 * step), 3)) for step in (1, STEPS)]
    return [first[::2], last[::2]] == clocks and last[1] < 0.9 * first[1]


@pytest.mark.parametrize("path", QUICKSTARTS, ids=lambda path: path.name)
def test_a_quickstart_trains_and_its_layer_anneals(path, printed):
    output = printed(path, "--steps", str(STEPS))
    assert trained(output), output
    assert float(re.search(r"accuracy, .*: (\S+)", output)[1]) > 0.2  # by chance: 0.1


def test_a_quickstart_that_loses_its_updates_would_be_seen(printed, tmp_path):
    """Raw ``jax.jit`` drops the clock, the streams and the weights of a module passed to it."""
    path = tmp_path / "broken.py"
    path.write_text((ROOT / "examples" / "quickstart_nnx.py").read_text().replace("@nnx.", "@jax."))
    output = printed(path, "--steps", str(STEPS))
    assert not trained(output), output


@pytest.mark.parametrize("path", QUICKSTARTS, ids=lambda path: path.name)
def test_a_quickstart_is_short(path):
    assert len(path.read_text().splitlines()) < 60
