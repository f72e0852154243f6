"""One study from its folder to its results: workers, their trials, what happens to them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from optuna.trial import Trial
from rich.console import Console

from gs_modules.train import data
from gs_modules.train.config import changed, to_yaml
from gs_modules.train.config_file import ConfigError
from gs_modules.train.console import say
from gs_modules.train.failure import CommandError
from gs_modules.train.folder import check_holds, check_same, locked, make_folder, write_whole
from gs_modules.train.interruption import StoppedError, stop_requests
from gs_modules.train.tune.config import Tuning, flat_of
from gs_modules.train.tune.space import suggest, values_in_words
from gs_modules.train.tune.storage import HEARTBEAT
from gs_modules.train.tune.study import JOURNAL, Study, open_study
from gs_modules.train.tune.workers import Worker, cpus
from gs_modules.train.yaml_text import YamlError

_FLAG = "--study-dir"

TRIALS_OF_A_PROCESS = 50
"""Of the programs that XLA compiles for a trial, some ten megabytes are never given back."""


class NoWorkerError(CommandError):
    """Every worker died."""


def tune(tuning: Tuning, folder: Path, console: Console) -> None:
    """Runs the trials that the study still needs, and writes what it found.

    Args:
        tuning: the study.
        folder: of the study.
        console: where people look.

    Raises:
        ConfigError: the folder or the storage holds another study, or cannot be used.
        DataError: the images cannot be read.
        ImpossibleValueError: the validation part asks for more images than there are.
        StorageError: the storage failed.
        StoppedError: Ctrl-C or SIGTERM came.
        NoWorkerError: all workers died.
    """
    data.of(tuning.base.data)
    stored = folder / "study.yaml"
    with _folder_of(tuning, folder), open_study(tuning, folder, known=stored.exists()) as study:
        # Not before: a storage that could not be used is no study yet.
        if not stored.exists() or stored.read_text() != tuning.to_yaml():
            write_whole(stored, tuning.to_yaml().encode())
        if study.is_finished and (folder / "best.yaml").exists():
            say(console, f"finished already: {len(study.finished())} trials; see {folder}")
            return
        if before := len(study.finished()):
            say(console, f"continuing with {before} trials finished")
        if not study.is_finished:
            _Supervisor(study, folder, console).run()
        from gs_modules.train.tune.report import write_results  # matplotlib is slow to import

        write_results(study, folder, console)


@contextlib.contextmanager
def _folder_of(tuning: Tuning, folder: Path) -> Iterator[None]:
    """The folder of this study and of no other process while this lasts."""
    stored = folder / "study.yaml"
    make_folder(folder, _FLAG)
    check_holds(folder, _FLAG, "a study", stored.name, before_it={JOURNAL})
    hint = " (machines that share a study each have their own)"
    with locked(folder, _FLAG, "tunes", hint):
        if stored.exists():
            _check(stored, tuning)
        yield


def _check(stored: Path, tuning: Tuning) -> None:
    """Refuses another study than the one that is there."""
    try:
        different = changed(flat_of(stored.read_text()), tuning.flat())
    except (YamlError, UnicodeDecodeError, TypeError, KeyError, AttributeError):
        reason = "damaged: not what a study writes; restore it, or choose another --study-dir"
        raise ConfigError([f"{stored}: {reason}"]) from None
    remedy = f"{_FLAG} with another folder"
    check_same(different, stored.parent, "holds a study", remedy=remedy, file=stored)


class _Supervisor:
    def __init__(self, study: Study, folder: Path, console: Console):
        self._study = study
        self._folder = folder
        self._console = console
        self._workers: list[Worker] = []
        wanted = study.tuning.study.workers or min(8, len(cpus()))
        self._count = min(wanted, study.tuning.study.trials - len(study.finished()))

    def run(self) -> None:
        """Until the study is finished."""
        numbers = range(1, self._count + 1)
        with stop_requests(self._console, "stopping the workers") as requested:
            try:
                self._workers = [Worker.start(one, self._count, self._folder) for one in numbers]
                processes = ", ".join(f"{worker.process.pid}" for worker in self._workers)
                say(self._console, f"{self._count} workers: processes {processes}")
                self._serve(requested)
            finally:  # without the storage, which may be what failed
                for worker in self._workers:
                    worker.stop()

    def _serve(self, requested: Callable[[], int]) -> None:
        beat = time.monotonic()
        while not self._study.is_finished:
            if stop := requested():
                self._give_up_all()
                finished = f"with {len(self._study.finished())} trials finished"
                raise StoppedError(stop, f"{finished}; the same command continues")
            for worker in self._workers:
                self._occupy(worker)
            ready = wait([worker.connection for worker in self._workers], timeout=0.5)
            for worker in [one for one in self._workers if one.connection in ready]:
                try:
                    self._answer(worker, worker.connection.recv())
                except (EOFError, ConnectionError):
                    self._bury(worker)
            if time.monotonic() > beat + HEARTBEAT:
                self._study.beat([one.trial for one in self._workers if one.trial])
                beat = time.monotonic()
            if not self._workers:
                raise NoWorkerError("no worker is left; the same command continues")

    def _occupy(self, worker: Worker) -> None:
        """Gives a worker without a trial the next one that is possible."""
        while worker.trial is None and (trial := self._study.ask()):
            params = suggest(trial, self._study.tuning.search, self._study.tuning.base)
            try:
                config = self._study.tuning.config_of(params)
            except ConfigError as error:
                self._study.prune(trial, "; ".join(error.lines))
                self._say(trial, f"impossible: {'; '.join(error.lines)}")
                continue
            worker.trial = trial
            with contextlib.suppress(ConnectionError):  # its end is noticed where it is awaited
                worker.connection.send(to_yaml(config))

    def _answer(self, worker: Worker, message: tuple[Any, ...]) -> None:
        trial = worker.trial
        if trial is None:
            raise NoWorkerError(f"a worker without a trial said {message}")
        kind, *values = message
        if kind == "bound":
            step, bound = values
            worker.connection.send(self._study.goes_on(trial, bound, step))
            return
        worker.trial = None
        worker.finished += 1
        if kind == "complete":
            self._study.complete(trial, *values)
            self._say(trial, f"{values[0]:.3f} nats at step {values[1]}")
        elif kind == "pruned":
            self._study.prune(trial, *values)
            self._say(trial, f"pruned {values[0]}")
        else:
            self._study.fail(trial, *values)
            self._say(trial, f"failed: {values[0]}")
        if worker.finished == TRIALS_OF_A_PROCESS:
            worker.stop()
            self._replace(worker)

    def _replace(self, worker: Worker) -> None:
        self._workers.remove(worker)
        self._workers.append(Worker.start(worker.number, self._count, self._folder))

    def _bury(self, worker: Worker) -> None:
        """Reports a worker that died, and starts another if that one had worked at all."""
        how = worker.exit_in_words()
        log = self._folder / f"worker-{worker.number}.log"
        in_trial = f" in trial {worker.trial.number}" if worker.trial else ""
        say(self._console, f"worker {worker.number} died{in_trial}: {how}; see {log}")
        self._give_up(worker)
        if worker.finished:
            self._replace(worker)
        else:
            self._workers.remove(worker)

    def _give_up(self, worker: Worker) -> None:
        if worker.trial is not None:
            self._study.lose(worker.trial.number)
            worker.trial = None

    def _give_up_all(self) -> None:
        for worker in self._workers:
            worker.stop()
            self._give_up(worker)
        self._workers = []

    def _say(self, trial: Trial, outcome: str) -> None:
        count = f"{len(self._study.finished())}/{self._study.tuning.study.trials}"
        values = values_in_words(trial.params)
        say(self._console, f"{count}  trial {trial.number}: {outcome}  ({values})")
