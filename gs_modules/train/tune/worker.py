"""A process that trains one trial after the other, for the process that started it.

It is told of a trial by the YAML of its config, says every validation bound, is answered whether to
go on, and ends as soon as the other end of its connection does.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from gs_modules.train import data
from gs_modules.train.config import Config
from gs_modules.train.interruption import SIGNALS
from gs_modules.train.loop import Trainer
from gs_modules.train.sections import ImpossibleValueError
from gs_modules.train.state import NonFiniteLossError
from gs_modules.train.yaml_text import parse


def main(descriptor: int, cpus: Sequence[int]) -> None:
    """Works until the connection ends.

    Args:
        descriptor: the socket to the process that started this one.
        cpus: those to run on; empty for all.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the other end hears of them, and ends
    if cpus and hasattr(os, "sched_setaffinity"):  # not on macOS
        os.sched_setaffinity(0, cpus)
    threading.Thread(target=_end_with, args=(descriptor,), daemon=True).start()
    connection = Connection(descriptor)
    dataset: data.Dataset | None = None  # the same for all trials
    while True:
        config = Config.model_validate(parse(connection.recv()).value)
        if dataset is None:
            dataset = data.of(config.data)
        connection.send(_outcome(config, dataset, connection))


def _end_with(descriptor: int) -> None:
    """Ends the process when nobody holds the other end of its socket, whatever it is doing."""
    ending = select.poll()
    ending.register(descriptor, 0)  # of a hang-up every poll tells
    ending.poll()
    os._exit(0)


def _outcome(config: Config, dataset: data.Dataset, connection: Connection) -> tuple[Any, ...]:
    def go_on(step: int, bound: float) -> bool:
        connection.send(("bound", step, bound))
        return connection.recv()

    try:
        return train_trial(config, dataset, go_on)
    except (ImpossibleValueError, NonFiniteLossError) as error:
        return "pruned", f"{error}"
    except Exception as error:
        return "failed", f"{type(error).__name__}: {error}"


def train_trial(
    config: Config, dataset: data.Dataset, go_on: Callable[[int, float], bool]
) -> tuple[Any, ...]:
    """Trains as `gs-modules train` does, but for files.

    Args:
        config: of the trial.
        dataset: with validation images.
        go_on: is told step and validation bound of each evaluation; False ends the trial.

    Returns:
        ("complete", best validation bound, its step), or ("pruned", why).

    Raises:
        ImpossibleValueError: the data or the devices do not allow the config.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    dataset.check_batch_size(config.training.batch_size)
    trainer = Trainer.of(config, dataset)
    snapshot = start = trainer.init()
    for snapshot, records in trainer.run(start):
        step = int(snapshot.state.step)
        for record in records:  # none where a chunk ended before an evaluation
            is_bound = record["split"] == "validation"
            if is_bound and not go_on(step, record["neg_elbo"]) and step < config.training.steps:
                return "pruned", f"at step {step}, by study.pruner"
    return "complete", float(snapshot.best.bound), int(snapshot.best.step)
