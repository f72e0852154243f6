"""Runs on 1, 2, 4 and 8 devices, and of two processes over loopback, one of which is killed."""

import os
import re
import signal
import socket
import subprocess
import time

import pytest
from runs import records_of, train_command, without_speed

pytestmark = [pytest.mark.command, pytest.mark.slow]


def train(run, devices=1, processes=1, **changes):
    """The command of one run: its processes, started."""
    command = train_command(run, **changes)
    with socket.create_server(("localhost", 0)) as free:
        address = f"localhost:{free.getsockname()[1]}"
    several = ["--coordinator-address", address, "--num-processes", str(processes)]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
    return [
        subprocess.Popen(
            [*command, *several, "--process-id", str(index)] if processes > 1 else command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for index in range(processes)
    ]


def ends_of(processes, timeout=120):
    """Exit code, output and errors of each process."""
    ends = []
    for process in processes:
        out, err = process.communicate(timeout=timeout)
        ends.append((process.returncode, out, err))
    return ends


def assert_close(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one["split"] == other["split"]
        numbers = {name: value for name, value in other.items() if name != "split"}
        # Of the loss to 1e-6; its KL alone is nearly 0 at first, a difference of equal numbers.
        assert one["neg_elbo"] == pytest.approx(other["neg_elbo"], rel=1e-6, abs=0)
        assert {name: one[name] for name in numbers} == pytest.approx(numbers, rel=1e-6, abs=1e-6)


SMALL_MESHES = {"model__num_classes": 8, "training__batch_size": 96}


@pytest.fixture(scope="module")
def on_one_device(tmp_path_factory):
    run = tmp_path_factory.mktemp("one") / "run"
    [(code, _, err)] = ends_of(train(run, **SMALL_MESHES))
    assert code == 0, err
    return without_speed(records_of(run))


@pytest.mark.parametrize(("data", "classes"), [(2, 1), (4, 1), (8, 1), (1, 8), (4, 2)])
def test_losses_are_those_of_one_device(data, classes, on_one_device, tmp_path):
    changes = {**SMALL_MESHES, "mesh__data": data, "mesh__classes": classes}
    [(code, _, err)] = ends_of(train(tmp_path / "run", devices=8, **changes))
    assert code == 0, err
    assert_close(without_speed(records_of(tmp_path / "run")), on_one_device)


def test_more_devices_than_there_are_is_refused_by_name(tmp_path):
    [(code, _, err)] = ends_of(train(tmp_path / "run", **SMALL_MESHES, mesh__data=3))
    assert code == 2
    assert re.fullmatch(r"--mesh\.data: .* are 3 devices, and there are 1 of kind cpu; .*\n", err)
    assert not (tmp_path / "run").exists()


def test_two_processes_train_as_one(on_one_device, tmp_path):
    run = tmp_path / "run"
    (first, out, _), (second, quiet, _) = ends_of(
        train(run, devices=2, processes=2, **SMALL_MESHES, mesh__data=4)
    )
    assert first == second == 0
    assert "pictures: " in out
    # Gloo, which sums over processes on CPU, says what it is connected to.
    assert [line for line in quiet.splitlines() if not line.startswith("[Gloo]")] == []
    assert_close(without_speed(records_of(run)), on_one_device)


LONG = {**SMALL_MESHES, "mesh__data": 2, "training__steps": 20_000}


@pytest.mark.parametrize("victim", [0, 1])
def test_if_one_process_dies_the_other_ends_with_a_message_and_the_command_resumes(
    victim, tmp_path
):
    run = tmp_path / "run"
    processes = train(run, processes=2, **LONG)
    checkpoints = run / "checkpoints"
    deadline = time.monotonic() + 120
    while not (checkpoints / "40").exists():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    processes[victim].kill()
    died = time.monotonic()
    _, _, err = ends_of([processes[1 - victim]])[0]
    assert time.monotonic() - died < 30
    assert processes[1 - victim].returncode not in (0, None)
    assert "another process of this run has ended" in err or "another task died" in err
    ends_of([processes[victim]])

    processes = train(run, processes=2, **LONG)
    assert processes[0].stdout is not None
    while "continuing from step " not in (line := processes[0].stdout.readline()):
        assert line, "the process ended without continuing"
    assert int(line.split()[-1]) >= 40
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for code, _, _ in ends_of(processes):
        assert code == 143
    steps = [record["step"] for record in records_of(run) if record["split"] == "train"]
    assert steps == [*range(20, steps[-1] + 1, 20)]  # each once, whatever was lost and made again
