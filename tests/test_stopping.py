"""Runs that are stopped by signals: what they say, what they keep, and how they go on."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
from runs import COMMAND, long_command, records_of, started, wait_until, without_speed

from gs_modules.train.config import print_config
from gs_modules.train.config_file import load

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]


@pytest.fixture(scope="module")
def unbroken_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("unbroken") / "run"
    subprocess.run(long_command(run), check=True, capture_output=True)
    return run


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
