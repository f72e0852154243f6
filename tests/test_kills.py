"""Runs killed with SIGKILL, anywhere and amid a save: the same command ends as if they never were.

With `GS_MODULES_RESULTS` a folder, what happened is written there as `kills.json`.
"""

import json
import os
import platform
import random
import subprocess
import time
from datetime import date
from pathlib import Path

import pytest
from runs import records_of, train_command, without_speed

pytestmark = [pytest.mark.command, pytest.mark.slow]

# Short steps and many checkpoints, so that a kill can hit anything.
LAST = 2000
CHANGES = {
    "temperature__steps": LAST,
    "training__steps": LAST,
    "training__evaluate_every": 100,
    "training__checkpoint_every": 100,
}
PATIENCE = 300


def command(run):
    return train_command(run, **CHANGES)


def outcome(run):
    """All that must not depend on the kills."""
    summary = json.loads((run / "summary.json").read_text())
    return summary["parameters_sha256"], without_speed(records_of(run))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken") / "run"
    subprocess.run(command(run), check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE)
    return outcome(run)


@pytest.fixture(scope="module")
def told():
    """What happened, by kind of kill; written when the module ends."""
    happened = {}
    yield happened
    if folder := os.environ.get("GS_MODULES_RESULTS"):
        machine = f"{os.cpu_count()} x {platform.machine()}, Python {platform.python_version()}"
        result = {"date": f"{date.today()}", "machine": machine, **happened}
        (Path(folder) / "kills.json").write_text(json.dumps(result, indent=1) + "\n")


def newest(run):
    names = [path.name for path in (run / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdecimal()), default=0)


def is_saving(run):
    return any((run / "checkpoints").glob("*.part"))


def wait_for(condition, process):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "the run ended before it was to be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def kill_and_finish(run, step, when, unbroken):
    """Kills a run once ``step`` is saved and ``when`` returns; whence the same command went on."""
    with subprocess.Popen(command(run), stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: newest(run) >= step, process)
        when(process)
        was_running = process.poll() is None
        process.kill()
    assert was_running, "the run ended before it was to be killed"
    again = subprocess.run(command(run), capture_output=True, text=True, timeout=PATIENCE)
    assert again.returncode == 0, again.stderr
    assert outcome(run) == unbroken
    said = [line for line in again.stdout.splitlines() if line.startswith("continuing from step ")]
    assert len(said) == 1
    return int(said[0].split()[-1])


@pytest.mark.parametrize("seed", range(50))
def test_a_run_killed_anywhere_ends_like_the_unbroken_one(seed, unbroken, told, tmp_path):
    draw = random.Random(seed)
    step, delay = draw.randrange(100, LAST - 200), draw.uniform(0, 0.1)
    went_on = kill_and_finish(tmp_path / "run", step, lambda _: time.sleep(delay), unbroken)
    assert went_on >= step // 100 * 100 > 0
    told.setdefault("killed_anywhere_continued_from", []).append(went_on)


@pytest.mark.parametrize("seed", range(20))
def test_a_run_killed_amid_a_save_ends_like_the_unbroken_one(seed, unbroken, told, tmp_path):
    run = tmp_path / "run"
    draw = random.Random(1000 + seed)
    step, within = draw.randrange(100, LAST - 200), draw.uniform(0, 0.05)

    def amid_a_save(process):
        wait_for(lambda: is_saving(run), process)
        began = time.monotonic()
        while is_saving(run) and time.monotonic() - began < within:
            time.sleep(0.0005)
        if not is_saving(run):  # it was faster: the next one, then
            wait_for(lambda: is_saving(run), process)

    went_on = kill_and_finish(run, step, amid_a_save, unbroken)
    assert went_on >= step // 100 * 100 > 0
    told.setdefault("killed_amid_a_save_continued_from", []).append(went_on)
