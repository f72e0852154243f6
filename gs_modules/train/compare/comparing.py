"""One comparison from its config to its files: the gradient estimators on the VAE's own problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from gs_modules.train import data
from gs_modules.train.bound import reconstruction
from gs_modules.train.checkpoint import Checkpoints
from gs_modules.train.compare.measurements import compare
from gs_modules.train.compare.report import as_json, draw, table, truth_in_words, verdict
from gs_modules.train.compare.truth import ComparisonError
from gs_modules.train.config import Config, differences
from gs_modules.train.config_file import ConfigError, load
from gs_modules.train.console import say
from gs_modules.train.figures import save
from gs_modules.train.folder import make_folder, write_json
from gs_modules.train.loop import Trainer
from gs_modules.train.models import Params
from gs_modules.train.run_directory import RunDirectory


@dataclasses.dataclass(frozen=True)
class ComparisonOptions:
    """What of a comparison is not in the config: flags of the command.

    Attributes:
        estimators: names of those to compare.
        temperatures: at which each is measured.
        samples: gradients for each estimator and temperature.
        truth_samples: for the true gradient, where it cannot be enumerated.
        images: the first so many training images are the problem.
    """

    estimators: Sequence[str]
    temperatures: Sequence[float]
    samples: int
    truth_samples: int
    images: int


def compare_estimators(
    config: Config,
    options: ComparisonOptions,
    directory: RunDirectory,
    output: Path,
    console: Console,
) -> None:
    """Compares gradients by the encoder's logits; the loss is the decoder's reconstruction.

    Parameters are those of a run of the same config, or else the initial ones. The encoder sees
    the images as they are, without flipped pixels; the KL divergence is a function of the logits,
    whose gradient needs no estimator, and is left out.

    Args:
        config: the resolved config.
        options: what to compare, and by how many samples.
        directory: where a run of the config may be.
        output: folder of ``compare.png`` and ``compare.json``.
        console: where people look.

    Raises:
        ConfigError: there are fewer images, ``output`` cannot be made, or nothing can be compared
            with so few samples.
        DataError: the images cannot be read.
        ImpossibleValueError: the validation part asks for more images than there are.
    """
    images = data.of(config.data)
    if options.images > len(images.train):
        raise ConfigError(
            [
                f"--images: at most {len(images.train)}, the training images of "
                f"{config.data.name}; got {options.images}"
            ]
        )
    trainer = Trainer.of(config, images)
    params, origin = _parameters(trainer, directory)
    x = jnp.asarray(images.train[: options.images], jnp.float32) * images.scale
    logits = jax.jit(trainer.model.encode)(params, x).logits

    def loss(sample: jax.Array) -> jax.Array:
        return reconstruction(trainer.model.decode(params, sample), x)

    make_folder(output, "--output")
    latents, classes = logits.shape[-2:]
    problem = {
        "data": config.data.name,
        "images": options.images,
        "latents": latents,
        "classes": classes,
        "parameters": origin,
    }
    say(
        console,
        f"{config.data.name}: {options.images} training images, {latents} latents of {classes} "
        f"classes; parameters {origin}",
    )
    try:
        with console.status("the true gradient") as status:
            found = compare(
                trainer.key("compare"),
                loss,
                logits,
                _estimators(config, options.estimators),
                options.temperatures,
                samples=options.samples,
                truth_samples=options.truth_samples,
                tell=status.update,
            )
    except ComparisonError as error:
        raise ConfigError([f"{error}"]) from None
    figure = draw(found, f"{config.data.name}: gradients by the logits, parameters {origin}")
    save(output, {"compare.png": figure})
    write_json(output / "compare.json", {**problem, **as_json(found)})
    say(console, truth_in_words(found) + "\n")
    console.print(table(found))
    say(console, "")
    for line in verdict(found, config.training.batch_size):
        say(console, line)
    say(console, f"figure and numbers: {output}")


def _parameters(trainer: Trainer, directory: RunDirectory) -> tuple[Params, str]:
    """The parameters to compare at, and in words where they are from."""
    initial = trainer.init()
    without_run = f"initial, of seed {trainer.config.seed}"
    if not directory.checkpoints.is_dir():
        return initial.best.params, f"{without_run} ({directory.path} holds no checkpoint)"
    different = differences(load(directory.config, check_root=False), trainer.config)
    if different:
        reason = f"{directory.path} holds a run of another config: {', '.join(different)}"
        return initial.best.params, f"{without_run} ({reason})"
    best = Checkpoints(directory.checkpoints, trainer.config).restore(initial)[0].best
    if not int(best.step):
        return initial.best.params, f"{without_run} ({directory.path} holds no checkpoint)"
    return best.params, f"of step {int(best.step)} of {directory.path}"


def _estimators(config: Config, names: Sequence[str]) -> dict[str, Any]:
    """By name: the config's own with its options, the others with the defaults of YAML."""
    at_one = ("temperature.kind", "constant")  # the config's temperature is not compared at
    configs = {name: load(None, [("estimator.kind", name), at_one]) for name in names}
    configs |= {name: config for name in names if name == config.estimator.kind}
    return {name: one.estimator.build() for name, one in configs.items()}
