"""One run from its folder to its summary: train, save, measure, draw, or stop and be continued."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from gs_modules.train import data
from gs_modules.train.checkpoint import Checkpoints
from gs_modules.train.config import Config
from gs_modules.train.config_file import ConfigError
from gs_modules.train.console import say
from gs_modules.train.events import Events
from gs_modules.train.figures import write_figures
from gs_modules.train.folder import read_object, write_json
from gs_modules.train.interruption import StoppedError, hearing, stop_requests, stop_run
from gs_modules.train.loop import Trainer
from gs_modules.train.pictures import take
from gs_modules.train.processes import agreed, is_first, largest
from gs_modules.train.report import write_report
from gs_modules.train.run_directory import RunDirectory, parameters_sha256
from gs_modules.train.sections import ImpossibleValueError
from gs_modules.train.state import Best, NonFiniteLossError


@hearing(stop_run)
def train(
    config: Config, directory: RunDirectory, console: Console, *, restart: bool = False
) -> None:
    """Trains until ``config.training.steps``, or continues to there.

    Args:
        config: the resolved config.
        directory: where everything is written.
        console: where people look.
        restart: begin anew and keep an old run aside.

    Raises:
        ConfigError: the folder holds a run of another config, or metrics that cannot be continued.
        DataError: the images cannot be read.
        ImpossibleValueError: a batch, or the validation part, asks for more images than there are.
        NonFiniteLossError: the loss became NaN or infinite; the last checkpoint is untouched.
        StoppedError: Ctrl-C or SIGTERM came; the state is saved.
    """
    images = data.of(config.data)
    images.check_batch_size(config.training.batch_size)
    trainer = Trainer.of(config, images)
    _check_memory(trainer)
    opened = directory.opened(config, restart=restart)
    with opened if is_first() else contextlib.nullcontext():
        if agreed(directory.is_finished):
            if is_first():
                read_object(directory.summary)
            say(console, f"finished already; pictures: {directory.figures}")
            return
        checkpoints = Checkpoints(directory.checkpoints, config)
        try:
            best = _train(trainer, directory, checkpoints, console)
        except NonFiniteLossError as error:
            good = checkpoints.steps()[-1:]
            saved = (
                f"the last good checkpoint is of step {good[0]}" if good else "nothing was saved"
            )
            raise NonFiniteLossError(f"{error}; {saved}, in {directory.checkpoints}") from None
        _finish(directory, trainer, best, console)


def _check_memory(trainer: Trainer) -> None:
    """Refuses a model that is larger than the memory: XLA waits for ever for as much."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if jax.default_backend() == "cpu" and trainer.nbytes > there:
        raise ImpossibleValueError(
            "model",
            f"its parameters, their optimizer and gradient take {trainer.nbytes / 2**30:,.0f} GiB, "
            f"and this machine has {there / 2**30:,.0f} GiB; make hidden, num_latents or "
            "num_classes smaller",
        )


def _check_beginning(directory: RunDirectory, checkpoint_every: int) -> None:
    """Refuses to train again what was trained already, behind one's back."""
    records = directory.records()
    # The metrics of a step are written just before its checkpoint, which may be what was killed.
    if records and records[-1]["step"] > checkpoint_every:
        raise ConfigError(
            [
                f"{directory.checkpoints}: no checkpoint, and the metrics reach step "
                f"{records[-1]['step']}; restore it, or write --restart to begin anew"
            ]
        )


def _train(
    trainer: Trainer, directory: RunDirectory, checkpoints: Checkpoints, console: Console
) -> Best:
    """Every step that is left, each saved or made again by the same command."""
    options = trainer.config.training
    # Requests are heard until the last checkpoint is written; what follows can be stopped anywhere.
    with stop_requests(console, "stopping after this chunk") as requested:
        snapshot, damaged = checkpoints.restore(trainer.init())
        for step, fault in damaged.items():
            checkpoints.set_aside(step)
            say(console, f"{fault}; set aside as {step}.damaged")
        step = int(snapshot.state.step)
        if is_first():
            if not step:
                _check_beginning(directory, options.checkpoint_every)
            directory.forget_after(step, trainer.expected_records(step))
        if step:
            say(console, f"continuing from step {step}")
        began = time.perf_counter()
        trainer.compile()
        if is_first():  # a page from the beginning, and what it needs is not compiled amid steps
            write_report(directory, trainer, jax.device_get(snapshot.best))
        say(console, f"compiled the training step in {time.perf_counter() - began:.1f} s")
        with (
            _progress(console) as progress,
            contextlib.closing(Events(directory.events, after=step)) as events,
        ):
            task = progress.add_task("", total=options.steps, completed=step, shown="")
            for reached, records in trainer.run(snapshot):
                snapshot = reached
                step = int(snapshot.state.step)
                if records and is_first():
                    directory.append(records)
                    events.append(records)
                progress.update(task, completed=step)
                if records:
                    progress.update(task, shown=_line(records))
                    if not console.is_terminal:
                        say(console, f"step {step}  {_line(records)}")
                stop = largest(requested())
                is_due = bool(records) and step % options.checkpoint_every == 0
                if stop or is_due or step == options.steps:
                    checkpoints.save(step, snapshot)
                    if is_first():
                        write_report(directory, trainer, jax.device_get(snapshot.best))
                if stop:
                    break
    if stop := largest(requested()):
        raise StoppedError(stop, f"at step {step}; the same command continues from there")
    return snapshot.best


def _finish(directory: RunDirectory, trainer: Trainer, best: Best, console: Console) -> None:
    """Measures on the test images, draws, and writes the summary last: it marks a finished run."""
    tested = trainer.test(best)
    if not is_first():
        return
    best = jax.device_get(best)  # what follows is no computation of all processes
    last = trainer.config.training.steps
    directory.forget_after(last, trainer.expected_records(last))
    tested["steps_per_second"] = directory.records()[-1]["steps_per_second"]
    directory.append([tested])
    with contextlib.closing(Events(directory.events, after=last)) as events:
        events.append([tested])
    records = directory.records()
    write_figures(directory.figures, take(trainer, best.params), records)
    write_report(directory, trainer, best)
    summary = {
        "step": int(best.step),
        **{record["split"]: record for record in records},
        "parameters_sha256": parameters_sha256(best.params),
    }
    write_json(directory.summary, summary)
    say(
        console,
        f"test: negative ELBO {tested['neg_elbo']:.2f} nats, parameters of step {best.step}",
    )
    say(console, f"pictures: {directory.figures}")


def _progress(console: Console) -> Progress:
    return Progress(
        BarColumn(bar_width=None),
        # One column: rich would cut a MofNCompleteColumn first where the terminal is narrow.
        TextColumn("{task.completed}/{task.total}  {task.fields[shown]}"),
        console=console,
        disable=not console.is_terminal,
    )


def _line(records: list[dict[str, Any]]) -> str:
    """What a person watches: the last loss and bound, the temperature and the speed."""
    parts = [f"{record['split']} {record['neg_elbo']:.2f}" for record in records]
    record = records[0]
    return (
        f"{'  '.join(parts)} nats  temperature {record['temperature']:.3f}  "
        f"{record['steps_per_second']:.0f} steps/s"
    )
