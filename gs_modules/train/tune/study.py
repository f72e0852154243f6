"""The trials of a study: handed out, judged and taken back, none lost.

The process that runs the workers is the only one on its machine that touches the storage. Of
Optuna's retrying only the callback is used: it runs trials of databases again, and only those of
`Study.optimize`.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from gs_modules.train.config import changed
from gs_modules.train.config_file import ConfigError
from gs_modules.train.folder import check_same
from gs_modules.train.tune.config import Tuning
from gs_modules.train.tune.space import values_of_base
from gs_modules.train.tune.storage import (
    StorageError,
    naming,
    open_database,
    open_journal,
    quiet,
    retry,
)

JOURNAL = "journal.log"


class Study:
    """The trials of one search.

    Attributes:
        tuning: what the study was told.
        optuna: Optuna's own study.
    """

    def __init__(self, tuning: Tuning, optuna_study: optuna.Study, database: RDBStorage | None):
        self.tuning = tuning
        self.optuna = optuna_study
        self._database = database
        self._retry = retry()
        # Machines that begin at once must not begin with the same trials.
        self._machine = [] if database is None else [uuid.getnode(), os.getpid()]

    def ask(self) -> Trial | None:
        """The next trial, or None while enough are finished or running, here or elsewhere."""
        trials = self.optuna.get_trials(deepcopy=False)
        running = sum(trial.state == TrialState.RUNNING for trial in trials)
        begun = sum(trial.state != TrialState.WAITING for trial in trials)
        if len(self.finished()) + running >= self.tuning.study.trials:
            return None
        # A sampler for each trial: what it draws is a function of the seed and the trials before.
        self.optuna.sampler = self._sampler(begun)
        with quiet():
            trial = self.optuna.ask()
        self.beat([trial])
        return trial

    def _sampler(self, number: int) -> BaseSampler:
        words = np.random.SeedSequence([self.tuning.study.seed, number, *self._machine])
        seed = int(words.generate_state(1)[0])
        if self.tuning.study.sampler == "random":
            return RandomSampler(seed=seed)
        with quiet():  # `group`: keys of a kind are sampled together too
            return TPESampler(seed=seed, multivariate=True, group=True)

    def goes_on(self, trial: Trial, bound: float, step: int) -> bool:
        """Whether a trial is worth more steps, after its validation bound at this one."""
        try:
            trial.report(bound, step)
        except UpdateFinishedTrialError:  # another machine thought this one dead
            return False
        return not trial.should_prune()

    def complete(self, trial: Trial, bound: float, step: int) -> None:
        """The run of a trial is over; its best validation bound, and when it was."""
        self._finish(trial, TrialState.COMPLETE, bound, step=step)

    def prune(self, trial: Trial, reason: str) -> None:
        """The trial ends early, for a reason that people understand."""
        self._finish(trial, TrialState.PRUNED, reason=reason)

    def fail(self, trial: Trial, reason: str) -> None:
        """The trial went wrong and would again."""
        self._finish(trial, TrialState.FAIL, reason=reason)

    def _finish(
        self, trial: Trial, state: TrialState, value: float | None = None, **attributes: Any
    ) -> None:
        with contextlib.suppress(UpdateFinishedTrialError):  # see `goes_on`
            for name, attribute in attributes.items():
                trial.set_user_attr(name, attribute)
            self.optuna.tell(trial, value, state)

    def lose(self, number: int) -> None:
        """The worker of a trial is gone: its values are run again, though not for ever."""
        if self.optuna.get_trials(deepcopy=False)[number].state == TrialState.RUNNING:
            self._retry(self.optuna, self.optuna.tell(number, state=TrialState.FAIL))

    def beat(self, trials: Sequence[Trial]) -> None:
        """Says that these are alive, and gives up those of machines that no longer say so."""
        if self._database is None:
            return
        study_id = self._database.get_study_id_from_name(self.optuna.study_name)
        for trial in trials:
            self._database.record_heartbeat(
                self._database.get_trial_id_from_study_id_trial_number(study_id, trial.number)
            )
        with quiet():
            optuna.storages.fail_stale_trials(self.optuna)

    def finished(self) -> list[FrozenTrial]:
        """Trials that need no more work: complete, pruned, or failed for a reason of their own."""
        return [
            trial
            for trial in self.optuna.get_trials(deepcopy=False)
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
            or (trial.state == TrialState.FAIL and "reason" in trial.user_attrs)
        ]

    @property
    def is_finished(self) -> bool:
        return len(self.finished()) >= self.tuning.study.trials


@contextlib.contextmanager
def open_study(tuning: Tuning, folder: Path, *, known: bool = False) -> Iterator[Study]:
    """The study of a folder that this process alone uses; it is made if it is not there.

    Args:
        tuning: the study.
        folder: of the study.
        known: it was there before, and is not made anew if it is not there now.

    Raises:
        ConfigError: the storage cannot be used, holds another study of this name, or lost a known
            one.
        StorageError: it failed later.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    place = tuning.shown_storage or f"{folder / JOURNAL}"
    with naming(place):
        database = None
        if tuning.study.storage is None:
            storage = open_journal(folder / JOURNAL)
        else:
            try:
                storage = database = open_database(tuning.study.storage)
            except StorageError as error:
                raise ConfigError([f"study.storage: {place} cannot be used: {error}"]) from error
        if known and tuning.study.name not in optuna.get_all_study_names(storage):
            raise ConfigError(
                [
                    f"{place}: the trials of study {tuning.study.name!r} are gone; restore them, "
                    "or write --study-dir with another folder to begin anew"
                ]
            )
        study = _load_or_create(tuning, storage)
        _check_config(tuning, study, place)
        opened = Study(tuning, study, database)
        if database is None:  # nobody else can be running these
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                opened.lose(trial.number)
        yield opened


def _load_or_create(tuning: Tuning, storage: BaseStorage) -> optuna.Study:
    pruner, name = _pruner(tuning), tuning.study.name
    if name in optuna.get_all_study_names(storage):
        # Creating it again would be harmless, but for a line in the journal of a finished study.
        return optuna.load_study(study_name=name, storage=storage, pruner=pruner)
    return optuna.create_study(
        study_name=name, storage=storage, pruner=pruner, direction="minimize", load_if_exists=True
    )


def _check_config(tuning: Tuning, study: optuna.Study, place: str) -> None:
    ours = {key: value for key, value in tuning.flat().items() if key != "study.storage"}
    stored = study.user_attrs.get("config")
    if stored is None:
        # What is to be beaten; first, so that no end of the process comes in between.
        study.enqueue_trial(values_of_base(tuning.search, tuning.base), skip_if_exists=True)
        study.set_user_attr("config", json.dumps(ours))
        return
    check_same(
        changed(json.loads(stored), ours),
        place,
        f"holds a study {tuning.study.name!r}",
        remedy="--study.name with another name",
        file=place,
    )


def _pruner(tuning: Tuning) -> BasePruner:
    quarter = tuning.base.training.steps // 4  # before, the temperature may still be far too high
    if tuning.study.pruner == "median":
        return MedianPruner(n_startup_trials=8, n_warmup_steps=quarter)
    if tuning.study.pruner == "halving":
        return SuccessiveHalvingPruner(min_resource=max(1, quarter), reduction_factor=2)
    return NopPruner()
