"""One evaluation from the folder of a run to its files: the bounds, the codes, the pictures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from gs_modules.train import data
from gs_modules.train.checkpoint import Checkpoints
from gs_modules.train.config import Config
from gs_modules.train.config_file import ConfigError, load
from gs_modules.train.console import say
from gs_modules.train.figures import code_usage, of_images, save
from gs_modules.train.folder import read_object, write_json
from gs_modules.train.importance import likelihoods
from gs_modules.train.loop import Trainer
from gs_modules.train.pictures import Split, pairs, take
from gs_modules.train.report import write_report
from gs_modules.train.run_directory import RunDirectory, parameters_sha256
from gs_modules.train.sections import Mesh
from gs_modules.train.state import Best


def evaluate_run(
    config: Config, directory: RunDirectory, split: Split, samples: int, console: Console
) -> None:
    """Evaluates the parameters that a run keeps, or would keep if it stopped at its last save.

    Args:
        config: the run's own.
        directory: of the run, which need not be finished.
        split: whose images are evaluated.
        samples: of the posterior, for each image.
        console: where people look.

    Raises:
        ConfigError: the run saved nothing yet or something else than its summary says, it keeps
            no such images, or so many samples cannot be counted.
        DataError: the images cannot be read.
        ImpossibleValueError: the validation part asks for more images than there are.
    """
    # The numbers are those of any number of devices, and this machine may have fewer.
    config = config.model_copy(update={"mesh": Mesh()})
    images = data.of(config.data)
    trainer = Trainer.of(config, images)
    rows = getattr(images, split)
    if not len(rows):
        raise ConfigError([f"--split: {directory.path} keeps no {split} images"])
    if len(rows) * samples >= 2**31:
        most = (2**31 - 1) // len(rows)
        raise ConfigError([f"--samples: at most {most} for {len(rows)} images; got {samples}"])
    found_before = directory.evaluations()
    best = _best(trainer, directory, console)
    model = config.model
    codes = model.num_latents * model.num_classes

    def progress(batches: range) -> Iterable[int]:
        return track(batches, f"{len(rows)} images", console=console, transient=True)

    found = likelihoods(
        trainer.model,
        best.params,
        rows,
        images.scale,
        trainer.key("importance"),
        samples,
        widest=max(rows.shape[1], codes, *model.hidden),
        track=progress,
    )
    evaluation = {
        "split": split,
        "images": len(rows),
        "samples": samples,
        "step": int(best.step),
        **found.metrics(),
        "parameters_sha256": parameters_sha256(best.params),
    }
    pictures = take(trainer, best.params, split)
    reconstructions = pairs(pictures.originals, pictures.reconstructed, pictures.image_shape)
    figures = directory.figures / f"evaluate_{split}"
    save(
        figures,
        {
            "reconstructions.png": of_images(
                reconstructions, f"{split} images, reconstructions below"
            ),
            "code_usage.png": code_usage(np.asarray(found.usage.counts)),
        },
    )
    _remember(directory, [*found_before, evaluation])
    write_report(directory, trainer, best)
    say(
        console,
        f"{split}: {len(rows):,} images, {samples:,} samples each; parameters of step "
        f"{int(best.step):,}\n",
    )
    console.print(_table(evaluation, model.num_classes, codes))
    say(console, "")
    say(console, f"numbers: {directory.evaluation}")
    say(console, f"pictures: {figures}")


def _best(trainer: Trainer, directory: RunDirectory, console: Console) -> Best:
    """The parameters to evaluate, from the newest checkpoint that is as it was written."""
    checkpoints = Checkpoints(directory.checkpoints, load(directory.config, check_root=False))
    snapshot, damaged = checkpoints.restore(trainer.init())
    for fault in damaged.values():
        say(console, f"{fault}; an older step is evaluated")
    if not (reached := int(snapshot.state.step)):
        raise ConfigError([f"{directory.path}: nothing is saved yet; train it first"])
    best = snapshot.best
    if not int(best.step):  # stopped before the first evaluation
        best = Best(snapshot.state.step, best.bound, snapshot.state.params)
    if not directory.is_finished:
        say(
            console,
            f"unfinished: the checkpoint of step {reached} of {trainer.config.training.steps}, "
            f"parameters of step {int(best.step)}",
        )
    elif read_object(directory.summary).get("parameters_sha256") != parameters_sha256(best.params):
        raise ConfigError(
            [
                f"{directory.checkpoints}: damaged: holds other parameters than "
                f"{directory.summary.name} says"
            ]
        )
    return best


def _remember(directory: RunDirectory, evaluations: list[dict[str, Any]]) -> None:
    """Writes the newest of each split, and their bounds in the summary of a finished run."""
    of_splits = {one["split"]: one for one in evaluations}
    write_json(directory.evaluation, of_splits)
    if directory.is_finished:
        bounds = {
            split: {key: one[key] for key in ("neg_importance_weighted", "samples")}
            for split, one in of_splits.items()
        }
        summary = {**read_object(directory.summary), "importance_weighted": bounds}
        write_json(directory.summary, summary)


def _table(found: dict[str, Any], classes: int, codes: int) -> Table:
    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    shown.add_column("nats per image")
    shown.add_column("", justify="right")
    for name, key in (
        ("negative ELBO", "neg_elbo"),
        ("  reconstruction", "reconstruction"),
        ("  KL divergence", "kl"),
        ("negative importance-weighted bound", "neg_importance_weighted"),
    ):
        shown.add_row(name, f"{found[key]:.3f}")
    shown.add_row(f"perplexity of a latent, of {classes}", f"{found['perplexity']:.2f}")
    shown.add_row(f"codes used, of {codes}", f"{found['codes_used']}")
    return shown
