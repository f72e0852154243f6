"""The command ``gs-modules``: arguments in, exit code out.

Exit codes: 0 done, 1 files cannot be written, 2 wrong config or command line, 3 data, 4 non-finite
loss, 130 and 143 stopped by Ctrl-C and SIGTERM after saving.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from gs_modules.train.config import Config, ConfigError, load, option_names, print_config
except ModuleNotFoundError as error:
    raise SystemExit(f"{error.name} is missing: pip install 'gs-modules[train]'") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    options, overrides = _parse(arguments)
    try:
        config = load(options.config, overrides, check_root=not options.print_config)
        if options.print_config:
            print(print_config(config), end="")
            return 0
        return _train(config, options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before the run can save, or a second one
        print("interrupted; the same command begins at the last checkpoint", file=sys.stderr)
        return 130
    except OSError as error:  # a folder that cannot be written, a full disk
        print(f"{error.filename or 'the run'}: {error.strerror or error}", file=sys.stderr)
        return 1


def _train(config: Config, options: argparse.Namespace) -> int:
    # What stands on JAX takes seconds to import: a wrong config is refused before.
    from rich.console import Console

    from gs_modules.train.data import DataError
    from gs_modules.train.loop import NonFiniteLossError
    from gs_modules.train.run_directory import RunDirectory
    from gs_modules.train.training import StoppedError, train

    directory = RunDirectory(options.run_dir or Path("runs") / options.config.stem)
    try:
        train(config, directory, Console(), restart=options.restart)
    except DataError as error:
        print(error, file=sys.stderr)
        return 3
    except NonFiniteLossError as error:
        print(error, file=sys.stderr)
        return 4
    except StoppedError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[tuple[str, str]]]:
    parser = argparse.ArgumentParser(prog="gs-modules", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser(
        "train",
        help="train the categorical VAE that a config describes, or continue",
        description="Train the categorical VAE that CONFIG describes, or continue its run.",
        allow_abbrev=False,
    )
    train.add_argument("config", type=Path, metavar="CONFIG", help="a YAML file, see configs/")
    train.add_argument(
        "--run-dir",
        type=Path,
        metavar="DIR",
        help="folder of the run (default: runs/NAME of CONFIG)",
    )
    train.add_argument(
        "--restart", action="store_true", help="begin anew; an old run is kept aside"
    )
    train.add_argument(
        "--print-config", action="store_true", help="print the resolved config and stop"
    )
    keys = train.add_argument_group("keys of the config")
    for name, (kind, default, description) in option_names().items():
        keys.add_argument(
            f"--{name}",
            dest=name,
            default=argparse.SUPPRESS,
            metavar=kind.upper(),
            help=f"{description} (default: {default})".replace("%", "%%"),
        )
    parsed, unknown = parser.parse_known_args(arguments)
    options = vars(parsed)
    overrides = [(name, options.pop(name)) for name in option_names() if name in options]
    # Flags that no key has go to the config too, which refuses them with the nearest name.
    misspelt = [word.removeprefix("--") for word in unknown if word.startswith("--")]
    sections = {name.partition(".")[0] for name in option_names() if "." in name}
    for name in sections.intersection(word.partition("=")[0] for word in misspelt):
        train.error(f"--{name} is a section; write --{name}.KEY, see --help")
    if unknown and not misspelt:
        train.error(f"unexpected argument: {unknown[0]}")
    overrides += [(name, value) for name, _, value in (word.partition("=") for word in misspelt)]
    return argparse.Namespace(**options), overrides
