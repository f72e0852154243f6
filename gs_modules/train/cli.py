"""The command ``gs-modules``: arguments in, exit code out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

try:
    from gs_modules.train.arguments import Overrides, parse
    from gs_modules.train.config import print_config
    from gs_modules.train.config_file import load, refusal
    from gs_modules.train.failure import CommandError
    from gs_modules.train.interruption import hearing, stop_now
    from gs_modules.train.sections import ImpossibleValueError
    from gs_modules.train.tune.config import load as load_tuning
except ModuleNotFoundError as error:
    raise SystemExit(f"{error.name} is missing: pip install 'gs-modules[train]'") from None


@hearing(stop_now)
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code, as ``CommandError`` lists them."""
    options, overrides = parse(arguments)
    try:
        if options.print_config:
            print(_printed(options, overrides), end="")
        else:
            _COMMANDS[options.command](options, overrides)
        sys.stdout.flush()  # nobody does it later: the process ends by `os._exit`
        return 0
    except CommandError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except ImpossibleValueError as error:
        print(refusal(options.config, overrides, error.key, error.reason), file=sys.stderr)
        return 2
    except OSError as error:  # a folder that cannot be written, a full disk
        print(f"{error.filename or 'standard output'}: {error.strerror or error}", file=sys.stderr)
        return 1


def _printed(options: argparse.Namespace, overrides: Overrides) -> str:
    if options.command == "tune":
        return load_tuning(options.config, overrides, check_root=False).to_yaml()
    return print_config(load(options.config, overrides, check_root=False))


# What the commands import takes seconds: a wrong config is refused before.


def _train(options: argparse.Namespace, overrides: Overrides) -> None:
    from gs_modules.train.processes import is_first, joined

    with joined(options.coordinator_address, options.num_processes, options.process_id):
        config = load(options.config, overrides)

        from rich.console import Console

        from gs_modules.train.run_directory import RunDirectory
        from gs_modules.train.training import train

        directory = RunDirectory(options.run_dir or _default_folder(options))
        train(config, directory, Console(quiet=not is_first()), restart=options.restart)


def _evaluate(options: argparse.Namespace, overrides: Overrides) -> None:
    config = load(options.config, overrides)

    from rich.console import Console

    from gs_modules.train.evaluating import evaluate_run
    from gs_modules.train.run_directory import RunDirectory

    directory = RunDirectory(options.config.parent)
    evaluate_run(config, directory, options.split, options.samples, Console())


def _compare(options: argparse.Namespace, overrides: Overrides) -> None:
    config = load(options.config, overrides)

    from rich.console import Console

    from gs_modules.train.compare.comparing import ComparisonOptions, compare_estimators
    from gs_modules.train.run_directory import RunDirectory

    directory = RunDirectory(options.run_dir or _default_folder(options))
    beside = Path(os.path.abspath(directory.path))  # "." has no name
    output = options.output or beside.with_name(f"{beside.name}-compare")
    of_comparison = ComparisonOptions(
        options.estimators,
        options.temperatures,
        samples=options.samples,
        truth_samples=options.truth_samples,
        images=options.images,
    )
    compare_estimators(config, of_comparison, directory, output, Console())


def _tune(options: argparse.Namespace, overrides: Overrides) -> None:
    jax.config.update("jax_platforms", "cpu")  # accelerators are for the workers
    tuning = load_tuning(options.config, overrides)

    from rich.console import Console

    try:
        from gs_modules.train.tune.tuning import tune
    except ModuleNotFoundError as error:
        raise CommandError(f"{error.name} is missing: pip install 'gs-modules[tune]'") from None
    tune(tuning, options.study_dir or _default_folder(options), Console())


_COMMANDS = {"train": _train, "evaluate": _evaluate, "compare": _compare, "tune": _tune}


def _default_folder(options: argparse.Namespace) -> Path:
    return Path("runs") / options.config.stem
