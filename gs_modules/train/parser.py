"""The commands of ``gs-modules`` and their flags, among them every key of a config."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gs_modules import ESTIMATORS
from gs_modules.train.config import Option, config_options
from gs_modules.train.tune.config import tune_options
from gs_modules.train.yaml_text import shown


def build_parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The parser of the whole command line, and those of its commands by name."""
    parser = argparse.ArgumentParser(
        prog="gs-modules",
        description="Train, evaluate and tune a categorical VAE, and compare gradient estimators.",
        allow_abbrev=False,
    )
    version = importlib.metadata.version("gs-modules")
    parser.add_argument("--version", action="version", version=f"gs-modules {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_train(commands)
    _add_evaluate(commands)
    _add_tune(commands)
    _add_compare(commands)
    return parser, commands.choices


def _add_train(commands: Any) -> None:
    train = _add_command(
        commands,
        "train",
        "train the categorical VAE that a config describes, or continue",
        "Train the categorical VAE that CONFIG describes, or continue its run.",
    )
    train.add_argument(
        "--restart", action="store_true", help="begin anew; an old run is kept aside"
    )
    several = train.add_argument_group(
        "several hosts", "the same command on each, with a run folder that all of them see"
    )
    several.add_argument(
        "--coordinator-address",
        metavar="HOST:PORT",
        help="of the first process, or 'auto': all three from the scheduler's environment",
    )
    several.add_argument(
        "--num-processes", type=_count, metavar="INTEGER", help="how many processes there are"
    )
    several.add_argument(
        "--process-id", type=_index, metavar="INTEGER", help="which of them this is, from 0"
    )


def _add_evaluate(commands: Any) -> None:
    """The one command that takes a run, whose config is as it is."""
    evaluate = commands.add_parser(
        "evaluate",
        help="measure how likely the images are under a run's model",
        description="Evaluate the parameters that RUN keeps, or those of its newest checkpoint: "
        "the negative ELBO, the importance-weighted bound, the use of the codes, and pictures.",
        allow_abbrev=False,
    )
    evaluate.add_argument(
        "config", type=_run_config, metavar="RUN", help="a folder that gs-modules train wrote"
    )
    evaluate.add_argument(
        "--samples",
        type=_count,
        metavar="INTEGER",
        default=1000,
        help="posterior samples for each image (default: 1000)",
    )
    evaluate.add_argument(
        "--split",
        choices=("train", "validation", "test"),
        default="test",
        help="whose images (default: test)",
    )
    evaluate.add_argument(
        "--data.root",
        dest="data.root",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="folder with the files of the data set (default: that of the run)",
    )
    evaluate.add_argument(
        "--print-config", action="store_true", help="print the run's config and stop"
    )


def _add_tune(commands: Any) -> None:
    tune = _add_command(
        commands,
        "tune",
        "search the keys of a config for the best validation bound, or continue",
        "Run the study that CONFIG describes, or continue it: trials of the VAE by several "
        "processes, for the best validation bound. The result is best.yaml in the study's folder. "
        "Besides the flags below, --search.KEY '[1, 2]' or '{low: 1, high: 2}' searches any key, "
        "and --search.KEY null does not.",
        of="study",
        keys=tune_options(),
    )
    for key in config_options():
        tune.add_argument(
            f"--search.{key}",
            dest=f"search.{key}",
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )


def _add_compare(commands: Any) -> None:
    compare = _add_command(
        commands,
        "compare",
        "compare gradient estimators on the problem of a config",
        "Compare the bias, the variance and the time of gradient estimators, by the encoder's "
        "logits, on the problem that CONFIG describes: with the parameters of its run, or else "
        "the initial ones.",
    )
    compare.add_argument(
        "--output",
        type=_folder,
        metavar="DIR",
        help="folder of compare.png and compare.json (default: the run's, with -compare added)",
    )
    compare.add_argument(
        "--estimators",
        type=_names,
        metavar="NAMES",
        default=tuple(ESTIMATORS),
        help="separated by commas (default: all)",
    )
    compare.add_argument(
        "--temperatures",
        type=_temperatures,
        metavar="NUMBERS",
        default=(0.1, 0.25, 0.5, 1.0, 1.5, 2.0),
        help="separated by commas (default: 0.1,0.25,0.5,1,1.5,2)",
    )
    for name, default, description in (
        ("images", 16, "training images, which are the problem"),
        ("samples", 2048, "gradients a row, in 32 equal blocks, so at least 64"),
        ("truth-samples", 65_536, "for the true gradient, where outcomes cannot be enumerated"),
    ):
        compare.add_argument(
            f"--{name}",
            type=_count,
            metavar="INTEGER",
            default=default,
            help=f"{description} (default: {default})",
        )


def _add_command(
    commands: Any,
    name: str,
    summary: str,
    description: str,
    *,
    of: str = "run",
    keys: Mapping[str, Option] | None = None,
) -> argparse.ArgumentParser:
    """A command that takes a config, its keys as flags, and the folder of a run or a study."""
    command = commands.add_parser(
        name,
        help=summary,
        description=description,
        usage=f"gs-modules {name} CONFIG [--FLAG VALUE ...]",  # all flags would fill the screen
        allow_abbrev=False,
    )
    command.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file, see configs/")
    command.add_argument(
        f"--{of}-dir",
        type=_folder,
        metavar="DIR",
        help=f"folder of the {of} (default: runs/NAME of CONFIG)",
    )
    command.add_argument(
        "--print-config", action="store_true", help="print the resolved config and stop"
    )
    group = command.add_argument_group("keys of the config")
    for key, (kind, default, text) in (config_options() if keys is None else keys).items():
        group.add_argument(
            f"--{key}",
            dest=key,
            default=argparse.SUPPRESS,
            metavar=kind,
            help=f"{text} (default: {_written(default)})".replace("%", "%%"),
        )
    return command


def _run_config(text: str) -> Path:
    config = _folder(text) / "config.yaml"
    if not config.is_file():
        raise argparse.ArgumentTypeError(
            f"expected the folder of a run, which holds a config.yaml; got {text!r}"
        )
    return config


def _written(default: Any) -> str:
    """A default as it is written in a flag."""
    return default if isinstance(default, str) else shown(default)


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("expected the name of a folder, got ''")
    return Path(os.path.expanduser(text))  # shells leave it to us in --run-dir=~/runs


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(",")))
    if wrong := [name for name in names if name not in ESTIMATORS]:
        raise argparse.ArgumentTypeError(
            f"expected some of {','.join(ESTIMATORS)}; got {wrong[0]!r}"
        )
    return names


def _temperatures(text: str) -> tuple[float, ...]:
    try:
        values = tuple(dict.fromkeys(map(float, text.split(","))))
    except ValueError:
        values = (0.0,)
    if not all(0 < value < float("inf") for value in values):
        raise argparse.ArgumentTypeError(
            f"expected positive numbers separated by commas, such as 0.5,1; got {text!r}"
        )
    return values


def _integer(least: int, in_words: str) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) < 2**31:
            raise argparse.ArgumentTypeError(f"expected {in_words}, got {text!r}")
        return int(text)

    return read


_index = _integer(0, "an integer from 0")
_count = _integer(1, "a positive integer")
