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
from runs import COMMAND, flags, records_of, without_speed

pytestmark = [pytest.mark.command, pytest.mark.slow]

# Long enough to be hit: about two seconds of steps, a checkpoint twenty times a second.
CHANGES = {
    "temperature__steps": 4000,
    "training__steps": 4000,
    "training__evaluate_every": 100,
    "training__checkpoint_every": 100,
}
PATIENCE = 300


def command(run):
    config = run.parent / "small.yaml"
    config.write_text("")
    return [*COMMAND, "train", str(config), "--run-dir", str(run), *flags(**CHANGES)]


def outcome(run):
    """All that must not depend on the kills."""
    summary = json.loads((run / "summary.json").read_text())
    return summary["parameters_sha256"], without_speed(records_of(run))


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken") / "run"
    began = time.monotonic()
    process = subprocess.Popen(command(run), stdout=subprocess.DEVNULL)
    wait_for(lambda: steps_of(run), process)
    first = time.monotonic()
    assert process.wait(PATIENCE) == 0
    return outcome(run), first - began, time.monotonic() - first


@pytest.fixture(scope="module")
def told():
    """What happened, by kind of kill; written when the module ends."""
    happened = {}
    yield happened
    if folder := os.environ.get("GS_MODULES_RESULTS"):
        machine = f"{os.cpu_count()} x {platform.machine()}, Python {platform.python_version()}"
        result = {"date": f"{date.today()}", "machine": machine, **happened}
        (Path(folder) / "kills.json").write_text(json.dumps(result, indent=1) + "\n")


def steps_of(run):
    return [path.name for path in (run / "checkpoints").glob("*") if path.name.isdecimal()]


def is_saving(run):
    return any((run / "checkpoints").glob("*.part"))


def wait_for(condition, process):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "the run ended before it was to be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)


def kill_and_finish(run, when, unbroken):
    """Starts a run, kills it at ``when``, and returns from which step the same command went on."""
    with subprocess.Popen(command(run), stdout=subprocess.DEVNULL) as process:
        wait_for(lambda: steps_of(run), process)
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
    expected, _, seconds = unbroken
    delay = random.Random(seed).uniform(0, 0.6 * seconds)
    step = kill_and_finish(tmp_path / "run", lambda _: time.sleep(delay), expected)
    assert step > 0
    told.setdefault("killed_anywhere_continued_from", []).append(step)


@pytest.mark.parametrize("seed", range(20))
def test_a_run_killed_amid_a_save_ends_like_the_unbroken_one(seed, unbroken, told, tmp_path):
    expected, _, seconds = unbroken
    run = tmp_path / "run"
    draw = random.Random(1000 + seed)
    delay, within = draw.uniform(0, 0.5 * seconds), draw.uniform(0, 0.05)

    def amid_a_save(process):
        time.sleep(delay)
        wait_for(lambda: is_saving(run), process)
        began = time.monotonic()
        while is_saving(run) and time.monotonic() - began < within:
            time.sleep(0.0005)
        if not is_saving(run):  # it was faster: the next one, then
            wait_for(lambda: is_saving(run), process)

    step = kill_and_finish(run, amid_a_save, expected)
    assert step > 0
    told.setdefault("killed_amid_a_save_continued_from", []).append(step)
