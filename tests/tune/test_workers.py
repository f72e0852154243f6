"""Whole studies of real trials by several processes, which are killed and go on."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from optuna.trial import TrialState
from postgres import server
from runs import COMMAND, started
from studies import SMALL, results_of, trials_of

from gs_modules.train import cli
from gs_modules.train.config_file import load as load_config
from gs_modules.train.tune import tuning as tuning_module
from gs_modules.train.tune.config import load

pytestmark = [pytest.mark.command, pytest.mark.usefixtures("promotion_as_users_have_it")]


def command(folder, *flags):
    path = folder.parent / "s.yaml"
    path.write_text(SMALL)
    return [*COMMAND, "tune", str(path), "--study-dir", str(folder), *flags]


def lines_until(process, pattern):
    """What the process says, up to the first line that matches."""
    said = []
    for line in process.stdout:
        said.append(line)
        if re.search(pattern, line):
            return "".join(said)
    raise AssertionError(f"the process ended before it said {pattern!r}: {''.join(said)}")


def workers_of(said):
    return [int(number) for number in re.findall(r"\d+", said.split("processes")[1].split("\n")[0])]


def is_running(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_study_ends_with_a_config_that_train_takes_a_table_and_figures(tmp_path, capsys):
    folder = tmp_path / "study"

    def tune(*flags):
        code = cli.main(command(folder, *flags)[len(COMMAND) :])
        return code, *capsys.readouterr()

    code, output, errors = tune()
    assert (code, errors) == (0, "")
    results = results_of(folder)
    assert [trial["number"] for trial in results["trials"]] == [0, 1, 2, 3]
    complete = [trial for trial in results["trials"] if trial["state"] == "complete"]
    best = min(complete, key=lambda trial: trial["bound"])
    assert results["best"] == best["number"]
    for trial in complete:
        assert list(trial["bounds"]) == ["20", "40", "60"]
        assert trial["bound"] == pytest.approx(min(trial["bounds"].values()), rel=1e-6)
    assert len((folder / "trials.csv").read_text().splitlines()) == 5
    figures = {"history.png", "importance.png", "temperatures.png"}
    assert {path.name for path in (folder / "figures").iterdir()} == figures
    text = (folder / "best.yaml").read_text()
    assert f"trial {best['number']}, validation negative ELBO {best['bound']:.3f} nats" in text
    config = load_config(folder / "best.yaml")
    assert config == load(folder / "study.yaml", check_root=True).config_of(best["params"])
    assert f"{best['bound']:.3f} nats" in output

    before = files_of(folder)
    code, output, _ = tune()
    assert code == 0 and "finished already: 4 trials" in output
    assert files_of(folder) == before
    code, _, errors = tune("--study.seed", "5", "--training.steps", "80")
    assert code == 2 and "--study-dir" in errors
    assert errors.splitlines()[1:] == [
        f"{folder / 'study.yaml'}: training.steps: 60 -> 80",
        f"{folder / 'study.yaml'}: study.seed: 0 -> 5",
    ]
    assert files_of(folder) == before
    code, output, _ = tune("--study.trials", "5", "--study.workers", "1")
    assert code == 0 and "continuing with 4 trials finished" in output
    assert results_of(folder)["trials"][:4] == results["trials"]
    assert len(results_of(folder)["trials"]) == 5


LONG = ("--training.steps", "1000", "--study.trials", "4", "--study.pruner", "none")


@pytest.mark.slow
def test_a_killed_worker_is_reported_and_its_trial_run_again_by_another(tmp_path):
    folder = tmp_path / "study"
    with started(command(folder, *LONG)) as process:
        first, _ = workers_of(lines_until(process, "processes"))
        rest = lines_until(process, "trial")
        os.kill(first, signal.SIGKILL)
        output, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, "")
    died = re.search(r"worker 1 died( in trial (\d+))?: SIGKILL; see (.*)", rest + output)
    assert died and died[3] == str(folder / "worker-1.log")
    trials = trials_of(folder)
    assert len(results_of(folder)["trials"]) == 4
    lost = [trial for trial in trials if trial.state == TrialState.FAIL]
    assert [f"{trial.number}" for trial in lost] == [died[2]] * len(lost)
    assert len(lost) == (died[2] is not None)
    for trial in lost:
        again = [one for one in trials if one.params == trial.params and one is not trial]
        assert [one.state for one in again] == [TrialState.COMPLETE]


@pytest.mark.slow
def test_when_everything_is_killed_no_finished_trial_is_lost(tmp_path):
    folder = tmp_path / "study"
    with started(command(folder, *LONG)) as process:
        workers = workers_of(lines_until(process, "processes"))
        lines_until(process, "2/4 ")
        process.kill()
        process.wait()
    deadline = time.monotonic() + 10
    while any(is_running(worker) for worker in workers):  # they end by themselves
        assert time.monotonic() < deadline
        time.sleep(0.05)
    before = {trial.number: trial for trial in trials_of(folder)}
    kept = {n: trial.value for n, trial in before.items() if trial.state == TrialState.COMPLETE}
    running = [trial for trial in before.values() if trial.state == TrialState.RUNNING]
    assert len(kept) >= 2 and running
    done = subprocess.run(command(folder, *LONG), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and f"continuing with {len(kept)} trials" in done.stdout
    after = trials_of(folder)
    assert {number: after[number].value for number in kept} == kept
    for trial in running:
        assert after[trial.number].state == TrialState.FAIL
        again = [one for one in after[len(before) :] if one.params.items() >= trial.params.items()]
        assert any(one.state == TrialState.COMPLETE for one in again)
    assert len(results_of(folder)["trials"]) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
def test_a_signal_stops_all_workers_and_loses_nothing_finished(number, exit_code, tmp_path):
    folder = tmp_path / "study"
    with started(command(folder, *LONG, "--training.steps", "1000000")) as process:
        workers = workers_of(lines_until(process, "processes"))
        second = subprocess.run(command(folder, *LONG), capture_output=True, text=True, timeout=60)
        began = time.monotonic()
        process.send_signal(number)
        output, errors = process.communicate(timeout=60)
    assert second.returncode == 2  # while the first is there, whatever the config
    assert time.monotonic() - began < 10
    assert not any(is_running(worker) for worker in workers)
    assert process.returncode == exit_code
    assert output == "stopping the workers; once more stops now\n"
    assert errors == "stopped with 0 trials finished; the same command continues\n"
    assert TrialState.RUNNING not in {trial.state for trial in trials_of(folder)}


def test_a_second_process_in_the_folder_and_a_folder_of_other_things_are_refused(
    file, tmp_path, capsys
):
    tuning = load(file, check_root=False)
    folder = tmp_path / "study"
    with tuning_module._folder_of(tuning, folder):
        assert cli.main(["tune", str(file), "--study-dir", str(folder)]) == 2
        assert f"{folder}: another process tunes here" in capsys.readouterr().err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    assert cli.main(["tune", str(file), "--study-dir", str(tmp_path / "full")]) == 2
    assert "not empty and not a study" in capsys.readouterr().err


def test_when_no_worker_is_left_it_says_so(file, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert cli.main(["tune", str(file), "--study-dir", "s"]) == 1
    output = capsys.readouterr()
    assert "worker 1 died" in output.out and "exit code 1; see s/worker-1.log" in output.out
    assert output.err == "no worker is left; the same command continues\n"


@pytest.mark.slow
def test_a_full_disk_is_one_line_that_names_the_journal(tmp_path):
    folder = tmp_path / "study"
    words = command(folder)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000)); "
    words[2] = limit + words[2]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (1, f"{folder / 'journal.log'}: File too large\n")
    done = subprocess.run(command(folder), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and len(results_of(folder)["trials"]) == 4


def joined(url, tmp_path, count, *flags):
    """Several commands at once on one database, each as if on a machine of its own."""
    options = ("--study.storage", url, "--study.workers", "1", *flags)
    folders = [tmp_path / f"machine-{number}" / "study" for number in range(count)]
    for folder in folders:
        folder.parent.mkdir()
    processes = [started(command(folder, *options)) for folder in folders]
    for process in processes:
        _, errors = process.communicate(timeout=400)
        assert (process.returncode, errors) == (0, "")
    results = [results_of(folder) for folder in folders]
    trials = results[0]["trials"]
    assert len(trials) >= 4 and all(trial["state"] != "failed" for trial in trials)
    # What the machines see is the same.
    assert all(result["trials"][:4] == trials[:4] for result in results)
    return trials


@pytest.mark.slow
def test_commands_at_once_on_one_sqlite_database_share_its_trials(tmp_path):
    joined(f"sqlite:///{tmp_path}/study.db", tmp_path, 2)


@pytest.mark.slow
def test_four_workers_drive_a_study_in_postgresql_and_one_is_killed(tmp_path):
    with server() as (url, stop):
        trials = joined(url, tmp_path, 4, "--study.trials", "12")
        assert 12 <= len(trials) <= 15
        assert len({json.dumps(trial["params"]) for trial in trials}) == len(trials)
        # One command with four workers, of which one is killed.
        folder = tmp_path / "one" / "study"
        folder.parent.mkdir()
        options = ("--study.storage", url, "--study.name", "two", "--study.workers", "4")
        with started(command(folder, *options, "--study.trials", "10")) as process:
            workers = workers_of(lines_until(process, "processes"))
            rest = lines_until(process, "4/10 ")
            os.kill(workers[0], signal.SIGKILL)
            output, errors = process.communicate(timeout=400)
        assert (process.returncode, errors) == (0, "")
        assert len(workers) == 4 and "worker 1 died" in rest + output
        assert len(results_of(folder)["trials"]) == 10
        # A server that goes away is one line.
        other = command(folder.with_name("three"), *options, "--study.name", "three")
        with started(other) as process:
            lines_until(process, "processes")
            stop()
            _, errors = process.communicate(timeout=120)
        assert process.returncode == 1 and len(errors.splitlines()) == 1
        assert "connection" in errors
