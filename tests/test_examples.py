"""Every example runs, in this process and for a few steps, and prints what it promises."""

import math
import re
import runpy
import sys
from pathlib import Path

import pytest

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
    assert names == {"categorical_vae.py", *(path.name for path in QUICKSTARTS)}


def test_the_categorical_vae_trains(printed):
    pattern = r"epoch +(\d+)  temperature (\S+)  .*: train (\S+), test (\S+)"
    found = re.findall(pattern, printed(ROOT / "examples" / "categorical_vae.py", "--epochs", "3"))
    (_, first, *bounds), (epoch, last, *lower) = [map(float, line) for line in found]
    assert epoch == 2
    # Batches of 100 of 1,437 images: 14 steps an epoch.
    assert (first, last) == tuple(round(math.exp(-5e-4 * 14 * n), 3) for n in (1, 3))
    assert all(later < earlier for later, earlier in zip(lower, bounds, strict=True))


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
